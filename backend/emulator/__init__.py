"""A program that speaks the wire protocols of TGI and vLLM without a model or a GPU.

Start it with `python -m emulator --engine tgi|vllm --port N`. It imports nothing from `pointsman`.
"""
