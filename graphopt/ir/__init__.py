"""Models in memory: loading, saving, shapes, constants and the layer view."""

from graphopt.ir.constants import constant, scalar
from graphopt.ir.fingerprint import fingerprint
from graphopt.ir.io import save, write_whole
from graphopt.ir.layers import Layer, LayerKind, Layers, LayerView, data_tensors
from graphopt.ir.model import Model, Origin, Source, node_label
from graphopt.ir.quant import Grid, GridTable, Quantization
from graphopt.ir.shapes import Shapes, ShapeTable, TensorInfo

__all__ = [
    "Grid",
    "GridTable",
    "Layer",
    "LayerKind",
    "LayerView",
    "Layers",
    "Model",
    "Origin",
    "Quantization",
    "ShapeTable",
    "Shapes",
    "Source",
    "TensorInfo",
    "constant",
    "data_tensors",
    "fingerprint",
    "node_label",
    "save",
    "scalar",
    "write_whole",
]
