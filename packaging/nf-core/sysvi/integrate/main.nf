process SYSVI_INTEGRATE {
    tag "${meta.id}"
    label 'process_medium'
    label 'process_gpu'

    conda "${moduleDir}/environment.yml"
    container "ghcr.io/sysvi/sysvi:0.1.0"

    input:
    tuple val(meta), path(h5ad, arity: 1)
    val system_col
    val batch_col
    val label_col

    output:
    tuple val(meta), path("${prefix}.h5ad")               , emit: h5ad
    tuple val(meta), path("${prefix}_model")              , emit: model
    tuple val(meta), path("${prefix}.html"), optional: true, emit: report
    path "X_${prefix}.parquet"                            , emit: obsm
    path "versions.yml"                                   , emit: versions, topic: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    prefix = task.ext.prefix ?: "${meta.id}"
    if ("${h5ad}" == "${prefix}.h5ad") {
        error("Input and output names are the same, set prefix in module configuration to disambiguate!")
    }
    def batch = batch_col ? "--batch '${batch_col}'" : ''
    def label = label_col ? "--label '${label_col}' --report '${prefix}.html'" : ''
    """
    export NUMBA_CACHE_DIR=./tmp/numba MPLCONFIGDIR=./tmp/matplotlib OMP_NUM_THREADS=${task.cpus} NUMBA_NUM_THREADS=${task.cpus}

    sysvi integrate '${h5ad}' \\
        --system '${system_col}' \\
        ${batch} \\
        ${label} \\
        --key X_emb \\
        --save-model '${prefix}_model' \\
        --output '${prefix}.h5ad' \\
        ${args}

    python3 - <<'END_PYTHON'
    import anndata
    import pandas as pd

    adata = anndata.read_h5ad("${prefix}.h5ad", backed="r")
    embedding = pd.DataFrame(adata.obsm["X_emb"], index=adata.obs_names).add_prefix("sysvi_")
    embedding.to_parquet("X_${prefix}.parquet")
    END_PYTHON

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        python: \$(python3 -c 'import platform; print(platform.python_version())')
        sysvi: \$(sysvi --version | sed 's/.*version //')
        torch: \$(python3 -c 'import torch; print(torch.__version__)')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    def report = label_col ? "touch '${prefix}.html'" : ''
    """
    touch '${prefix}.h5ad' 'X_${prefix}.parquet'
    mkdir '${prefix}_model'
    touch '${prefix}_model/model.safetensors'
    ${report}

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        sysvi: 0.1.0
    END_VERSIONS
    """
}
