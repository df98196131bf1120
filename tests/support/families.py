"""Model families as a user would write them, named in a spec as `tests.support.families:...`."""

import keras
from keras import layers


def deep(shape, spec):
    """Most layers that the export knows, a shared one and a model within the model among them."""
    numbers = keras.Input((2 * len(shape.edges),), name="numbers")
    categories = keras.Input((len(shape.levels),), dtype="int32", name="categories")
    looked_up = layers.Flatten()(layers.Embedding(max(shape.levels), 4)(categories))
    x = layers.Concatenate()([layers.BatchNormalization()(numbers), looked_up])
    x = layers.LayerNormalization()(layers.Dense(8, activation="silu")(x))
    inner_input = keras.Input((8,))
    inner = keras.Model(inner_input, layers.Dense(8, activation="tanh")(inner_input))
    shared = layers.Dense(8, use_bias=False)
    x = layers.Add()([shared(x), inner(shared(x)), x])
    x = layers.Multiply()([layers.ReLU()(x), layers.Activation("sigmoid")(x)])
    x = layers.GaussianNoise(0.1, seed=1)(x)
    logits = layers.Dense(shape.outputs)(x)
    return keras.Model({"numbers": numbers, "categories": categories}, logits)


def unknown_layer(shape, spec):
    """Holds a layer that the export does not know."""
    numbers = keras.Input((2 * len(shape.edges),), name="numbers")
    categories = keras.Input((len(shape.levels),), dtype="int32", name="categories")
    x = layers.UnitNormalization(name="odd_one")(numbers)
    x = layers.Concatenate()([x, layers.Flatten()(layers.Embedding(99, 2)(categories))])
    return keras.Model([numbers, categories], layers.Dense(shape.outputs)(x))


def misnamed(shape, spec):
    """Calls its input by another name than replicas do."""
    columns = keras.Input((2 * len(shape.edges),), name="columns")
    return keras.Model(columns, layers.Dense(shape.outputs)(columns))


def broken(shape, spec):
    """Fails while it is built."""
    raise RuntimeError("this family\nis broken")


def bounded(shape, spec):
    """Holds a weight that must not leave its bounds."""
    numbers = keras.Input((2 * len(shape.edges),), name="numbers")
    categories = keras.Input((len(shape.levels),), dtype="int32", name="categories")
    looked_up = layers.Flatten()(layers.Embedding(99, 2)(categories))
    x = layers.Concatenate()([numbers, looked_up])
    dense = layers.Dense(shape.outputs, kernel_constraint=keras.constraints.NonNeg())
    return keras.Model([numbers, categories], dense(x))
