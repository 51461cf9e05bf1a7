"""Where a run's scalars go, beside its log: what TRAIN.LOGGERS names. One file for each; see dassl/loggers/build.py."""

from dassl.loggers.build import LOGGER_REGISTRY, check_loggers

__all__ = ["LOGGER_REGISTRY", "check_loggers"]
