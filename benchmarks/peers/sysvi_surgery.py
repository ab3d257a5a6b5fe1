"""Training scvi-tools' SysVI, and adding the batches of a query by surgery (scArches)."""

from typing import Any

from anndata import AnnData
from scvi.external import SysVI

QUERY_EPOCHS = 100  # as in the tutorials of surgery
SURGERY: dict[str, Any] = {
    "plan_kwargs": {"weight_decay": 0.0},
    "enable_progress_bar": False,
    "accelerator": "cpu",
}


def train_and_map(reference: AnnData, query: AnnData, epochs: int | None) -> tuple[SysVI, SysVI]:
    """A SysVI of the reference, and the one to which the batches of the query were added.

    Both have log-normalised expression in X and the columns system and batch. The number of epochs is that of the
    reference; None is chosen by scvi-tools.
    """
    SysVI.setup_anndata(reference, batch_key="system", categorical_covariate_keys=["batch"])
    model = SysVI(reference)
    model.train(max_epochs=epochs, enable_progress_bar=False, accelerator="cpu")
    SysVI.prepare_query_anndata(query, model)
    mapped = SysVI.load_query_data(query, model)
    mapped.train(max_epochs=QUERY_EPOCHS, **SURGERY)
    return model, mapped
