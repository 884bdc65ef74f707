"""Digits → whether their check digits are right."""

from itertools import pairwise

_LUHN_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
_RESIDENT_CHECKS = "10X98765432"
# One step of Verhoeff's permutation.
_VERHOEFF_STEP = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    total = sum(int(digit) for digit in digits[-1::-2]) + sum(_LUHN_DOUBLED[int(digit)] for digit in digits[-2::-2])
    return total % 10 == 0


def mod_97(characters: str) -> bool:
    """ISO 7064 MOD 97-10 of capitals and digits, as IBAN takes it once the first four stand at the end."""
    return int("".join(str(int(character, 36)) for character in characters)) % 97 == 1


def mod_11_2(characters: str) -> bool:
    """ISO 7064 MOD 11-2 of 17 digits and a check character (Chinese resident id, GB 11643)."""
    total = sum(int(digit) * pow(2, 17 - index, 11) for index, digit in enumerate(characters[:17]))
    return _RESIDENT_CHECKS[total % 11] == characters[17]


def weighted(digits: str, weights: tuple[int, ...], modulus: int) -> int:
    """Sum of digits times weights, modulo `modulus`."""
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False)) % modulus


def verhoeff(digits: str) -> bool:
    """Verhoeff 1969: products in the dihedral group of order 10 of digits permuted by place."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(place % 8):
            value = _VERHOEFF_STEP[value]
        check = _dihedral(check, value)
    return check == 0


def _dihedral(left: int, right: int) -> int:
    if left < 5:
        return (left + right) % 5 if right < 5 else 5 + (left + right) % 5
    return 5 + (left - right) % 5 if right < 5 else (left - right) % 5


def cpf(digits: str) -> bool:
    """Both check digits of a Brazilian CPF; eleven equal digits are none."""
    if all(left == right for left, right in pairwise(digits)):
        return False
    for length in (9, 10):
        rest = weighted(digits[:length], tuple(range(length + 1, 1, -1)), 11)
        if int(digits[length]) != (0 if rest < 2 else 11 - rest):
            return False
    return True
