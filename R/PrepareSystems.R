#' Join systems whose genes are named differently
#'
#' Renames genes with a table of orthologues, keeps genes that are expressed in
#' every system, normalises counts and joins the cells in one object, ready for
#' [RunSysVI()]. The engine computes it, so Python and R give the same values.
#'
#' @details
#' For each system, the engine uses the column of the table that contains most of
#' its gene names; a system whose column is that of `reference` keeps its names.
#' Genes that are not in the table or have several orthologues are left out; genes
#' with the same orthologue are left out or summed (`duplicates`). Genes that are
#' expressed in more than `min_cells` cells of every system are kept. Counts are
#' scaled to 10,000 per cell over these genes, then transformed to log(1 + x).
#'
#' With `genes = "union"`, genes that some systems lack are kept too. One-to-one
#' orthologues are one gene; the counts of one-to-many and many-to-many orthologues
#' are summed; genes without orthologues, or whose orthologues no other system has,
#' are the system's own. A gene is kept if it is expressed in more than `min_cells`
#' cells of every system that has it. The result says which genes each system lacks,
#' and [RunSysVI()] reads it: the model then compares and sees a cell's own genes only.
#'
#' @param objects Named list with one object per system: Seurat objects,
#'   SingleCellExperiments, or matrices of genes x cells, all of the same kind and
#'   with counts.
#' @param orthologs Data frame with pairs of gene names, or path of a `.csv` or
#'   tab-separated file with a header; `NULL` if all systems use the same gene
#'   names.
#' @param system Name of the metadata column for the names of the systems.
#' @param reference Name of the system whose gene names are kept.
#' @param genes `"shared"` for the genes that all systems have, or `"union"` for genes
#'   that some lack too.
#' @param duplicates Genes with the same orthologue: `"drop"` all of them, or
#'   `"sum"` their counts. For `genes = "shared"`; a union sums them.
#' @param normalize `FALSE` if the expression is log-normalised already.
#' @param fractional_counts `TRUE` if values with fractions are counts too, as from
#'   the correction for ambient RNA (SoupX, DecontX) and from EM counters.
#' @param min_cells A gene must be expressed in more than this number of cells of
#'   every system.
#' @param process,verbose As in [RunSysVI()].
#' @param ... For Seurat objects and SingleCellExperiments, `assay` and `layer` with
#'   the counts, as in [RunSysVI()]; by default `"counts"` (with `normalize =
#'   FALSE`, `"data"` or `"logcounts"`). For matrices, `metadata`: one data frame
#'   for all cells.
#'
#' @return One object with the cells of all systems in the given order and the
#'   metadata columns that all systems have. Seurat: layers `counts` and `data`;
#'   SingleCellExperiment: assays `counts` and `logcounts`; matrices: a list of
#'   `expression` and `counts` (dgCMatrix) and `metadata`. Without normalisation
#'   there are no counts. If a cell name occurs in two systems, all names get the
#'   prefix `<system>_`. The result is held in memory. With `genes = "union"`, the
#'   names of the genes that each system lacks, a named list, are in
#'   `Misc(object, "sysvi_lacking_genes")`, `metadata(object)$sysvi_lacking_genes`, or
#'   the element `lacking_genes` of the list, for the argument of [RunSysVI()].
#' @export
#' @examplesIf sysvi_available()
#' cells <- SimulateSystems(n_cells = 200, n_genes = 100)
#' human <- cells$counts[, cells$metadata$system == "system1"]
#' mouse <- cells$counts[, cells$metadata$system == "system2"]
#' rownames(mouse) <- paste0("m", rownames(mouse))
#' pairs <- data.frame(human = rownames(human), mouse = rownames(mouse))
#' joined <- PrepareSystems(list(human = human, mouse = mouse), pairs, verbose = FALSE)
#' dim(joined$expression)
#' table(joined$metadata$system)
PrepareSystems <- function(objects, orthologs = NULL, system = "system", reference = names(objects)[1L],
                           duplicates = c("drop", "sum"), normalize = TRUE, fractional_counts = FALSE,
                           min_cells = 20L, process = c("session", "separate"), verbose = TRUE,
                           genes = c("shared", "union"), ...) {
  duplicates <- rlang::arg_match(duplicates)
  gene_set <- rlang::arg_match(genes)
  process <- rlang::arg_match(process)
  check_string(system)
  check_bool(normalize)
  check_bool(fractional_counts)
  check_whole_number(min_cells)
  check_bool(verbose)
  kind <- kind_of_objects(objects)
  if (!rlang::is_string(reference) || !reference %in% names(objects)) {
    sysvi_abort("{.arg reference} must be one of {quote_names(names(objects))}.")
  }
  systems <- lapply(objects, describe_system, kind = kind, normalize = normalize, ...)
  genes <- lapply(systems, select_genes)
  values <- list(
    systems = unname(Map(function(name, cells, genes) {
      list(name = name, genes = I(genes), cells = I(cells_in_layers(cells$layers)))
    }, names(objects), systems, genes)),
    orthologs = encode_orthologs(orthologs),
    system = system, reference = reference, duplicates = duplicates, normalize = normalize,
    fractional_counts = fractional_counts, min_cells = min_cells, gene_set = gene_set
  )
  stream <- function(add) {
    for (i in seq_along(systems)) {
      check <- if (normalize) {
        check_counts(systems[[i]], names(objects)[i], fractional_counts)
      } else {
        check_log_normalised(systems[[i]], factor(rep("all", length(systems[[i]]$cells))))
      }
      stream_blocks(systems[[i]], genes[[i]], function(layer, block) add(i - 1L, block), check$check_block)
      check$check_all()
    }
  }
  answer <- call_engine("prepare_systems", values, stream = stream, process = process, verbose = verbose)
  assemble_object(kind, answer, join_metadata(systems, system, answer$values$cells))
}

# A table of orthologues as a value of a task: the path of a file, or its columns.
encode_orthologs <- function(orthologs) {
  if (is.data.frame(orthologs)) {
    lapply(orthologs, function(x) I(as.character(x)))
  } else if (is.character(orthologs)) {
    normalizePath(orthologs, mustWork = FALSE)
  } else {
    orthologs
  }
}

kind_of_objects <- function(objects) {
  names <- names(objects)
  is_named <- !is.null(names) && !any(names %in% c("", NA)) && !anyDuplicated(names)
  if (!is.list(objects) || length(objects) < 2L || !is_named) {
    sysvi_abort("{.arg objects} must be a named list of two or more: list(human = ..., mouse = ...).")
  }
  kinds <- vapply(objects, function(object) {
    if (inherits(object, "Seurat")) {
      "Seurat"
    } else if (is(object, "SingleCellExperiment")) {
      "SingleCellExperiment"
    } else {
      "matrix"
    }
  }, "")
  if (length(unique(kinds)) > 1L) {
    sysvi_abort(paste(
      "{.arg objects} must all be Seurat objects, all SingleCellExperiments or all matrices; they are",
      "{quote_names(kinds)}."
    ))
  }
  kinds[[1L]]
}

# The cells of one system; counts, or log-normalised expression, are the default.
describe_system <- function(object, kind, normalize, ...) {
  switch(kind,
    Seurat = describe_seurat_system(object, normalize, ...),
    SingleCellExperiment = describe_sce_system(object, normalize, ...),
    matrix = describe_cells(object, ...)
  )
}

describe_seurat_system <- function(object, normalize, layer = if (normalize) "counts" else "data", ...) {
  describe_cells(object, layer = layer, ...)
}

describe_sce_system <- function(object, normalize, assay = if (normalize) "counts" else "logcounts", ...) {
  describe_cells(object, assay = assay, ...)
}

# As check_log_normalised(), for counts; counts with fractions if the user says so.
check_counts <- function(cells, system, fractional_counts) {
  check_block <- function(block, layer, columns) {
    check_finite(block, cells$source, layer$cells[columns])
    if (length(block@x) && (min(block@x) < 0 || (!fractional_counts && any(block@x != floor(block@x))))) {
      sysvi_abort(paste(
        "{capitalise(cells$source)} of system '{system}' does not hold counts: name the counts (assay =, layer =), or",
        "set normalize = FALSE for log-normalised values or fractional_counts = TRUE for counts with fractions."
      ))
    }
  }
  list(check_block = check_block, check_all = function() NULL)
}

# Metadata of all cells, named `cells`: the columns that all systems have, and the column
# `system`.
join_metadata <- function(systems, system, cells) {
  tables <- Map(function(described, name) {
    rows <- match(cells_in_layers(described$layers), described$cells)
    table <- described$metadata[rows, , drop = FALSE]
    if (any(as.character(table[[system]]) != name, na.rm = TRUE) || anyNA(table[[system]])) {
      sysvi_abort(paste(
        "The cells of system '{name}' have a metadata column '{system}' already, which the names of the systems would",
        "replace: choose another column with {.arg system}."
      ))
    }
    table[[system]] <- rep(name, nrow(table))
    table
  }, systems, names(systems))
  shared <- Reduce(intersect, lapply(tables, colnames))
  joined <- do.call(rbind, c(unname(lapply(tables, function(table) table[shared])), make.row.names = FALSE))
  joined[[system]] <- factor(joined[[system]], names(systems))
  rownames(joined) <- cells
  joined
}

assemble_object <- function(kind, answer, metadata) {
  object <- assemble_cells(kind, answer, metadata)
  genes <- answer$values$lacking_genes
  if (!length(genes)) {
    return(object)
  }
  if (kind == "Seurat") genes <- rownames(object)[match(genes, answer$values$genes)] # where "_" became "-"
  systems <- answer$values$lacking_systems
  lacking <- split(as.character(genes), factor(systems, unique(systems)))
  switch(kind,
    Seurat = SeuratObject::Misc(object, lacking_genes_name) <- lacking,
    SingleCellExperiment = S4Vectors::metadata(object)[[lacking_genes_name]] <- lacking,
    matrix = object$lacking_genes <- lacking
  )
  object
}

assemble_cells <- function(kind, answer, metadata) {
  decode <- function(values) decode_dgCMatrix(answer$arrays, values, answer$values$genes, rownames(metadata))
  expression <- decode("expression")
  counts <- if (!is.null(answer$arrays$counts)) decode("counts")
  switch(kind,
    Seurat = assemble_seurat(expression, counts, metadata),
    SingleCellExperiment = SingleCellExperiment::SingleCellExperiment(
      c(if (!is.null(counts)) list(counts = counts), list(logcounts = expression)),
      colData = metadata
    ),
    matrix = list(expression = expression, counts = counts, metadata = metadata)
  )
}

assemble_seurat <- function(expression, counts, metadata) {
  if (is.null(counts)) {
    withr::local_options(Seurat.object.assay.calcn = FALSE) # without counts, summing them would only warn
    return(SeuratObject::CreateSeuratObject(
      SeuratObject::CreateAssay5Object(data = expression), meta.data = metadata
    ))
  }
  object <- SeuratObject::CreateSeuratObject(counts, meta.data = metadata)
  dimnames(expression) <- dimnames(object)
  SeuratObject::SetAssayData(object, layer = "data", new.data = expression)
}
