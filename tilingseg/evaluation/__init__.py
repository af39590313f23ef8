"""How good a model is, measured on what users get: the stitched outputs of a whole run.

    recipe ─ areas held out ─▶ flow.run ─▶ masks, probabilities, polygons
        measure    counts of one raster, against its labels
        scores     sums by region and class, with intervals
        pictures   the best and the worst windows
        card       the table, and the model card
    evaluation     the order of these

A score of windows fresh from the network says little: scaling, tiling, stitching and thresholds
come after it. Here nothing is left out, and nothing is read but files that a user would read.
"""

from tilingseg.evaluation.evaluation import EvaluateOptions, Evaluation, evaluate, iou_by_region

__all__ = ["EvaluateOptions", "Evaluation", "evaluate", "iou_by_region"]
