"""Last: taskalg inside a program of your own.

Someone types a formula. The program says what is wrong with it, or what it will do, then does it
with progress of its own and keeps the report.

    python examples/toy_checkpoints.py && python examples/embed.py

prints

    >>> base - 0.5*toxc
    no checkpoint is named 'toxc'
      at <expr>:1:12
      1 | base - 0.5*toxc
        |            ^^^^
      help: did you mean 'toxic'? known names: base, math, toxic
    >>> base + math
    an expression must be a model or a task vector
      at <expr>:1:1
      1 | base + math
        | ^^^^^^^^^^^
      note: the coefficients add up to 2: 1 makes a model, 0 makes a task vector
      help: if math is a fine-tuned model, bind it with --task math=..., or write …
    >>> base - 0.5*toxic
    coefficients: base 3/2, toxic -1/2
    100 % done
    wrote 14 tensors, 224 bytes
"""

import taskalg


def answer(formula: str) -> None:
    """Evaluate a formula, or say what is wrong with it."""
    print(">>>", formula)
    try:
        recipe = taskalg.compile(
            formula, base="toy/base", tasks={"toxic": "toy/toxic"}, models={"math": "toy/math"}
        )
        recipe.check()
    except taskalg.TaskalgError as error:
        print(error)  # says where, and what to type instead
        return
    shown = ", ".join(f"{name} {value}" for name, value in recipe.coefficients.items())
    print("coefficients:", shown)
    seen: list[taskalg.Progress] = []
    report = recipe.save("toy/answer", overwrite=True, progress=seen.append)
    print(f"{100 * seen[-1].done // seen[-1].total} % done")
    print(f"wrote {len(report.plan.steps)} tensors, {report.bytes_written} bytes")


for formula in ("base - 0.5*toxc", "base + math", "base - 0.5*toxic"):
    answer(formula)
