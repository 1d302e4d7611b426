"""The name by which models that were registered by earlier versions load; see :mod:`bccp.models.predictor`."""

from bccp.models.predictor import _load_pyfunc as _load_pyfunc
