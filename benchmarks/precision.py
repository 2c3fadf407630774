"""What float32 Gumbel-max does to one ancestral step, by the closed form (python -m benchmarks.precision).

A token with a Zipf distribution over V values (p_i ~ 1 / i) is revealed at t = 1/2 by a step of length 1 / T, drawn by
Gumbel-max over V + 1 values, the last of which is the mask. Prints the effective temperature of the tokens and their
entropy.
"""

import torch

from unmask.gumbel import effective_temperature, truncated_probabilities


def main() -> None:
    """Print the table."""
    print(f"{'V':>7} {'T':>6} {'temperature':>12} {'entropy, nats':>14} {'of exact draws':>15}")
    for vocab in (27, 256, 50_257):
        zipf = 1 / torch.arange(1, vocab + 1, dtype=torch.float64)
        zipf = zipf / zipf.sum()
        for steps in (64, 512, 4096, 32_768):
            reveal = 2 / steps
            drawn = truncated_probabilities(
                torch.cat((zipf * reveal, torch.tensor([1 - reveal], dtype=torch.float64)))
            )[:-1]
            drawn = drawn / drawn.sum()
            temperature, _ = effective_temperature(zipf.log().unsqueeze(0), drawn.unsqueeze(0))
            entropies = [-torch.special.xlogy(p, p).sum().item() for p in (drawn, zipf)]
            print(f"{vocab:7} {steps:6} {temperature:12.4f} {entropies[0]:14.4f} {entropies[1]:15.4f}")


if __name__ == "__main__":
    main()
