"""First steps: subtract a task vector and look at the result.

A task vector is a fine-tuned model minus its base. Subtracting it makes the model forget. In the
toy checkpoints, tuning on toxic text moved the first weight of every layer from 1 to 3.

    python examples/toy_checkpoints.py && python examples/negate.py

prints

    model  base - 0.5*toxic
    toxic has [3.0, 1.0, 1.0, 1.0]
    detoxed has [0.0, 1.0, 1.0, 1.0]
"""

from safetensors.numpy import load_file

import taskalg

base = taskalg.checkpoint("toy/base", name="base")
toxic = taskalg.task("toy/toxic", base, name="toxic")

detoxed = base - 0.5 * toxic  # a formula so far; nothing was computed
print(repr(detoxed))
detoxed.save("toy/detoxed", overwrite=True)

for name in ("toxic", "detoxed"):
    weights = load_file(f"toy/{name}/model.safetensors")
    print(name, "has", weights["model.layers.0.mlp.weight"].tolist())
