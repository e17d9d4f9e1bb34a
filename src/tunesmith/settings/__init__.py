"""What a person may set: one frozen object behind the recipe file, the flags and Python.

Each field stands with its default, its help beneath it. Nothing else in the package holds a default.
"""

from tunesmith.settings.data import CleanSettings, Column, DataSettings, ModelSettings, SourceTable
from tunesmith.settings.evaluate import EvaluateSettings, LossTask, SqlTaskSettings
from tunesmith.settings.export import GgufKind
from tunesmith.settings.recipe import Recipe, every_field, make_recipe, parse_value, read_recipe
from tunesmith.settings.teacher import TeacherSettings
from tunesmith.settings.train import TrainSettings

__all__ = [
    "CleanSettings", "Column", "DataSettings", "EvaluateSettings", "GgufKind", "LossTask", "ModelSettings", "Recipe",
    "SourceTable", "SqlTaskSettings", "TeacherSettings", "TrainSettings", "every_field", "make_recipe", "parse_value",
    "read_recipe",
]  # fmt: skip
