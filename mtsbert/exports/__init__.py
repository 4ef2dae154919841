"""Checkpoints as graphs of other runtimes: ONNX and OpenVINO. Imports arguments, data and network."""
