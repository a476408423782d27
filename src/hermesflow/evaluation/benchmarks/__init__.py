"""The paper's benchmarks on real data: GenEval, DPG-Bench, COCO-30K Frechet distance and CLIP score."""
