"""What turns a model's outputs on a test set into figures."""

from dassl.evaluation.build import EVALUATOR_REGISTRY, build_evaluator
from dassl.evaluation.compositional import BestPairs, Compositional
from dassl.evaluation.evaluator import Classification, EvaluatorBase

__all__ = ["EVALUATOR_REGISTRY", "BestPairs", "Classification", "Compositional", "EvaluatorBase", "build_evaluator"]
