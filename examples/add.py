"""Next: several tasks, layers of your choice, and a look at the plan before anything is written.

The formula is text here, as on the command line. What it means is exact: the two spellings below
are the same sum, so they would write the same bytes.

    python examples/toy_checkpoints.py && python examples/add.py

prints

    model  base + 0.5*code + 0.5*math - toxic["*.mlp.*"]
    the same: True
    reads 704 bytes of data, writes 224
    layers.0.mlp  [-1.0, 1.5, 1.5, 1.0]
    layers.0.attn [1.0, 1.5, 1.5, 1.0]
"""

from safetensors.numpy import load_file

import taskalg

tasks = {name: f"toy/{name}" for name in ("code", "math", "toxic")}
both = taskalg.compile('base + (code + math)/2 - toxic["*.mlp.*"]', base="toy/base", tasks=tasks)
print(repr(both))

other = taskalg.compile(
    'mean(base + math, base + code) - toxic + toxic[~"*.mlp.*"]', base="toy/base", tasks=tasks
)
print("the same:", both == other)

plan = both.plan()
print(f"reads {plan.bytes_read} bytes of data, writes {plan.bytes_written}")

both.save("toy/both", overwrite=True)
weights = load_file("toy/both/model.safetensors")
print("layers.0.mlp ", weights["model.layers.0.mlp.weight"].tolist())
print("layers.0.attn", weights["model.layers.0.attn.weight"].tolist())
