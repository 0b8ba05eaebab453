"""What the GPU can do at most, by PyTorch: copies, matrix products, and exact search as a peer. Writes one JSON file.

Times are CUDA events around repeated calls after a warm-up, the median kept. Copies count each byte read and each
byte written; products count two operations a term.
"""

import json
import statistics
import sys

REPEATS = 7


def median_seconds(torch, work):
    work()
    torch.cuda.synchronize()
    times = []
    for _ in range(REPEATS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def copy_rate(torch):
    source = torch.randint(0, 255, (1 << 31,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / median_seconds(torch, lambda: target.copy_(source))


def product_rate(torch, dtype, n=8192):
    a, b = (torch.randn(n, n, device="cuda").to(dtype) for _ in range(2))
    return 2 * n**3 / median_seconds(torch, lambda: a @ b)


def int8_rate(torch, n=8192):
    a, b = (torch.randint(-127, 127, (n, n), dtype=torch.int8, device="cuda") for _ in range(2))
    return 2 * n**3 / median_seconds(torch, lambda: torch._int_mm(a, b.t()))


def exact_search_seconds(torch, n=1_000_000, dim=128, k=64, block=4096):
    """The exact kNN graph by products and topk: scores go through memory, as they do in every framework."""
    base = torch.randint(0, 255, (n, dim), device="cuda").to(torch.bfloat16)
    norms = (base.float() ** 2).sum(1)
    blocks = 32  # of 4,096 queries; the whole graph is as many times longer as it has more rows

    def work():
        for at in range(blocks):
            scores = norms - 2 * (base[at * block : (at + 1) * block] @ base.T).float()
            torch.topk(scores, k, largest=False)

    return median_seconds(torch, work) * n / (blocks * block)


def main():
    import torch

    if not torch.cuda.is_available():
        print("error: PyTorch sees no GPU", file=sys.stderr)
        return 1
    figures = {
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name(),
        "copy_bytes_per_second": copy_rate(torch),
        "bf16_operations_per_second": product_rate(torch, torch.bfloat16),
        "f16_operations_per_second": product_rate(torch, torch.float16),
        "f32_operations_per_second": product_rate(torch, torch.float32),
        "exact_knn_graph_1m_x_128_k64_seconds": exact_search_seconds(torch),
    }
    try:
        figures["int8_operations_per_second"] = int8_rate(torch)
    except RuntimeError as refused:
        figures["int8_operations_per_second"] = None
        print(f"int8 products: {refused}", file=sys.stderr)
    with open(sys.argv[1], "w") as file:
        json.dump(figures, file, indent=1)
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
