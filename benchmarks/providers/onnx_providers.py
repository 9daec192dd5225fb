"""onnxruntime and OpenVINO: one-node ONNX models with constant weights, which both rearrange when they load them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..cases import ConvRow, pair
from ..targets import TARGETS
from .base import Provider, Unavailable


def model_of(row: ConvRow, weight: np.ndarray, bias: np.ndarray) -> bytes:
    """The ONNX model of one convolution."""
    vertical, horizontal = pair(row.padding)
    node = helper.make_node(
        "Conv", ["x", "weight", "bias"], ["y"], group=row.groups, kernel_shape=list(row.weight_shape[2:]),
        strides=[row.stride] * 2, dilations=list(pair(row.dilation)), pads=[vertical, horizontal] * 2,
    )  # fmt: skip
    graph = helper.make_graph(
        [node], row.name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, row.input_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, row.output_shape)],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return bytes(model.SerializeToString())


class _Onnx(Provider):
    """NCHW arrays; weights are always constant, so there is no functional call."""

    def __init__(self, device: str, threads: int) -> None:
        super().__init__(device, threads)
        self.threads = threads

    def array(self, x: np.ndarray, layout: str) -> np.ndarray:
        if x.dtype != np.float32:
            raise Unavailable(f"{self.name} is compared in float32 only")
        return x

    def to_numpy(self, x: Any) -> np.ndarray:
        return np.asarray(x)


class OnnxRuntime(_Onnx):
    """onnxruntime, its input and output bound beforehand, so that nothing is copied."""

    name = "onnxruntime"

    def version(self) -> str:
        import onnxruntime

        return str(onnxruntime.__version__)

    def prepared_conv2d(self, row: ConvRow, x: Any, weight: Any, bias: Any) -> Callable[[], Any]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(model_of(row, weight, bias), options, ["CPUExecutionProvider"])
        output = np.empty(row.output_shape, np.float32)
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
        binding.bind_output("y", "cpu", 0, np.float32, list(output.shape), output.ctypes.data)

        def call() -> np.ndarray:
            session.run_with_iobinding(binding)
            return output

        return call


class OpenVino(_Onnx):
    """OpenVINO with float32 arithmetic (its default on this kind of CPU may round to bfloat16)."""

    name = "openvino"

    def limited_to(self, target: str) -> str:
        # Its oneDNN reads this variable (measured: half the speed at avx2).
        return "" if os.environ.get("ONEDNN_MAX_CPU_ISA") == TARGETS[target]["ONEDNN_MAX_CPU_ISA"] else "not limited"

    def version(self) -> str:
        import openvino

        return str(openvino.__version__)

    def prepared_conv2d(self, row: ConvRow, x: Any, weight: Any, bias: Any) -> Callable[[], Any]:
        import openvino

        core = openvino.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": self.threads, "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }  # fmt: skip
        model = core.read_model(model_of(row, weight, bias), b"")
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        request.set_input_tensor(openvino.Tensor(x, shared_memory=True))

        def call() -> np.ndarray:
            request.infer()
            return request.get_output_tensor().data  # type: ignore[no-any-return]

        return call


__all__ = ["OnnxRuntime", "OpenVino", "model_of", "onnx"]
