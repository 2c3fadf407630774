"""What float32 Gumbel-max does to one ancestral step, by the closed form (python -m benchmarks.precision).

A token with a Zipf law over V values (p_i ~ 1 / i) is revealed at t = 1/2 by a step of length 1 / T, as public code
draws it: with the mask as the V + 1st value. Printed: the temperature under which the tokens that appear are most
likely, and their entropy.
"""

import torch

from unmask.gumbel import effective_temperature, truncated_law


def main() -> None:
    """Print the table."""
    print(f"{'V':>7} {'T':>6} {'temperature':>12} {'entropy, nats':>14} {'of exact draws':>15}")
    for vocab in (27, 256, 50_257):
        zipf = 1 / torch.arange(1, vocab + 1, dtype=torch.float64)
        zipf = zipf / zipf.sum()
        for steps in (64, 512, 4096, 32_768):
            reveal = 2 / steps
            law = truncated_law(torch.cat((zipf * reveal, torch.tensor([1 - reveal], dtype=torch.float64))))[:-1]
            law = law / law.sum()
            temperature, _ = effective_temperature(zipf.log().unsqueeze(0), law.unsqueeze(0))
            entropies = [-torch.special.xlogy(p, p).sum().item() for p in (law, zipf)]
            print(f"{vocab:7} {steps:6} {temperature:12.4f} {entropies[0]:14.4f} {entropies[1]:15.4f}")


if __name__ == "__main__":
    main()
