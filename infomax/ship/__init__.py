"""Shipping a run's encoder: in timm's own form with a model card, as ONNX or torch.export graphs, to the Hub.

record (what a run knows of itself), card (README.md), folder (timm's form), graphs (ONNX, torch.export), hub (the
upload), commands (infomax export, infomax push).
"""
