"""Where a model finds its input in an AnnData: the columns of ``adata.obs`` and the layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sysvi._core.errors import InputError
from sysvi._core.settings import flag


@dataclass(frozen=True)
class Columns:
    """The columns and the layer that a model reads, built once from a user's arguments and passed on.

    Parameters
    ----------
    system
        Column of ``adata.obs`` with the systems.
    batch
        Column with the batches (samples, donors); None: no batches.
    layer
        Layer with the log-normalised expression; None: ``adata.X``.
    categorical, continuous
        Columns with further categorical and with continuous covariates.
    weight_systems
        Whether all systems count the same in the loss, whatever their number of cells.

    Examples
    --------
    >>> columns = Columns.from_arguments("species", "donor", continuous_covariate_keys=["age"])
    >>> columns.categorical_covariates, columns.continuous
    (('donor',), ('age',))
    >>> Columns.from_json(columns.to_json()) == columns
    True
    """

    system: str
    batch: str | None = None
    layer: str | None = None
    categorical: tuple[str, ...] = ()
    continuous: tuple[str, ...] = ()
    weight_systems: bool = False

    @property
    def categorical_covariates(self) -> tuple[str, ...]:
        """All columns with categorical covariates: the batch, where there is one, and the further ones."""
        return self.categorical if self.batch is None else (self.batch, *self.categorical)

    @property
    def all(self) -> tuple[str, ...]:
        """All columns of ``adata.obs`` that the model reads."""
        return (self.system, *self.categorical_covariates, *self.continuous)

    @classmethod
    def from_arguments(
        cls,
        system_key: str,
        batch_key: str | None = None,
        *,
        layer: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        weight_systems: bool = False,
    ) -> Columns:
        """Read the arguments that :func:`sysvi.integrate`, ``train_many`` and ``tune`` have in common.

        Raises
        ------
        InputError
            If a string is given in place of a list of columns, or `weight_systems` is not True or False.
        """
        for name, keys in (("categorical", categorical_covariate_keys), ("continuous", continuous_covariate_keys)):
            if isinstance(keys, str):
                raise InputError(f"{name}_covariate_keys is the string {keys!r}; give a list of columns: [{keys!r}].")
            if keys is not None and (not isinstance(keys, Iterable) or isinstance(keys, Mapping)):
                raise InputError(f"{name}_covariate_keys is of type {type(keys).__name__}; give a list of columns.")
        return cls(
            system_key,
            batch_key,
            layer,
            () if categorical_covariate_keys is None else tuple(categorical_covariate_keys),
            () if continuous_covariate_keys is None else tuple(continuous_covariate_keys),
            flag("weight_systems (of SysVI: weight_batches)", weight_systems),
        )

    def to_arguments(self) -> dict[str, Any]:
        """The columns as the arguments of :func:`sysvi.integrate`, the inverse of `from_arguments`."""
        return {
            "system_key": self.system,
            "batch_key": self.batch,
            "layer": self.layer,
            "categorical_covariate_keys": self.categorical,
            "continuous_covariate_keys": self.continuous,
            "weight_systems": self.weight_systems,
        }

    def to_json(self) -> dict[str, Any]:
        """The columns as strings, lists and a bool: the form of ``uns["sysvi_setup"]`` and of saved models.

        No batch and no layer are empty strings, since h5ad files cannot hold None.
        """
        values = asdict(self)
        empty = {name: values[name] or "" for name in ("batch", "layer")}
        return values | empty | {name: list(values[name]) for name in ("categorical", "continuous")}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Columns:
        """Read what `to_json` wrote, also after it went through an h5ad file; further values are ignored.

        Raises
        ------
        KeyError
            If a value is missing.
        """
        return cls(
            str(values["system"]),
            str(values["batch"]) if values["batch"] else None,
            str(values["layer"]) if values["layer"] else None,
            tuple(map(str, values["categorical"])),
            tuple(map(str, values["continuous"])),
            bool(values["weight_systems"]),
        )
