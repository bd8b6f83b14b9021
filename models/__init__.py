"""Research models: modules, their tasks, their data and their training recipes.

Each model is one file that reads from top to bottom and scripts with `torch.jit.script` as it is.
`registry` finds a model by name; its `CARD` (`card.Card`) says what it is.
"""
