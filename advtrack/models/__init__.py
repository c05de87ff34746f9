"""The paper's six networks (section V)."""

#: In the column order of the paper's tables.
MODELS = ("googlenet", "alexnet", "resnet18", "resnet34", "resnet56", "vgg16")
