"""Where a region may lie: the closed list of EU member states (ISO 3166-1 alpha-2)."""

import re

COUNTRIES = {
    "AT": "Austria",
    "BE": "Belgium",
    "BG": "Bulgaria",
    "CY": "Cyprus",
    "CZ": "Czechia",
    "DE": "Germany",
    "DK": "Denmark",
    "EE": "Estonia",
    "ES": "Spain",
    "FI": "Finland",
    "FR": "France",
    "GR": "Greece",
    "HR": "Croatia",
    "HU": "Hungary",
    "IE": "Ireland",
    "IT": "Italy",
    "LT": "Lithuania",
    "LU": "Luxembourg",
    "LV": "Latvia",
    "MT": "Malta",
    "NL": "Netherlands",
    "PL": "Poland",
    "PT": "Portugal",
    "RO": "Romania",
    "SE": "Sweden",
    "SI": "Slovenia",
    "SK": "Slovakia",
}

# A region's code stands in certificates and addresses: one plain label, e.g. "eu-de-1".
CODE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
CODE_LENGTH = 32


def valid_code(code: str) -> bool:
    return len(code) <= CODE_LENGTH and CODE.fullmatch(code) is not None
