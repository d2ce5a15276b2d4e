"""Choose a scalar by trying: the most of the change that keeps what should be kept.

The paper's rule for forgetting takes the largest λ at which a control task keeps 95 % of what the
base scores on it (Ilharco et al. 2022, arXiv 2212.04089, section 3). Each point is evaluated in
memory and handed to a function; yours would ask a model questions, this one looks at a weight. On
the command line a program of yours does it: `taskalg sweep --help`.

    python examples/toy_checkpoints.py && python examples/sweep.py

prints

       λ   control   toxicity
    base       0.8          1
       0       0.8          1
     0.1     0.796        0.8
     0.2     0.784        0.6
     0.3     0.764        0.4   chosen
     0.4     0.736        0.2
     0.5       0.7          0

    chosen: λ = 0.3, the largest λ with control >= 0.95*base.control
    saved base - 0.3*toxic
"""

import torch

import taskalg

recipe = taskalg.compile(
    "base - λ*toxic", base="toy/base", tasks={"toxic": "toy/toxic"}, set={"λ": 0}
)


def score(weights: dict[str, torch.Tensor]) -> dict[str, float]:
    """Look at the weight that tuning on toxic text moved."""
    moved = float(weights["lm_head.weight"][0])
    return {"control": round(0.8 - 0.1 * (1 - moved) ** 2, 6), "toxicity": round(moved, 6)}


found = taskalg.sweep(
    recipe,
    {"λ": "0:0.5:0.1"},
    score,
    maximize="λ",
    subject_to="control >= 0.95*base.control",
)
print(found)

assert found.chosen is not None
chosen = recipe.bind(**found.chosen.values)
chosen.save("toy/chosen", overwrite=True)
print("saved", chosen)
