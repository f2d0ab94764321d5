"""Residues that occur in the framework of heavy domains, by IMGT position.

benchmarks/framework_residues.py counted them in 12,825 whole human VH and camelid VHH of OAS (CC BY 4.0; Bernat et al.
2019, and those of the therapeutic nanobody profiler). A residue is listed if at least 0.1 % of the domains have it.
The numbering alone says where a domain begins and ends, not whether what lies between is one: half a light chain, a tag
in the place of framework 1 and shuffled residues are numbered like a whole domain.
"""

from __future__ import annotations

from collections.abc import Mapping

# Domains that the table was not made of have at most 2 unlisted residues (Jain, Shehata), and 99.5 % of Harvey's
# nanobodies at most 5. A framework 1 that a tag replaces has 7 or more.
MOST_UNUSUAL = 5
# Of IMGT positions 1 to 10 at most 2, but for 0.1 % of Harvey's nanobodies: a tag that replaces the first five residues
# has 3.
MOST_UNUSUAL_AT_START = 2
_START = tuple(map(str, range(1, 11)))
RESIDUES = {
    "1": "DEHQ",
    "2": "AEGILMV",
    "3": "EHKLPQRTY",
    "4": "LMPV",
    "5": "AEKLMQRV",
    "6": "ADEGQT",
    "7": "FPSTW",
    "8": "AEG",
    "9": "AGIPSTV",
    "10": "",
    "11": "ADEGHNRSTV",
    "12": "AEFLMPSTV",
    "13": "AEGIKLMRV",
    "14": "AEHKLMNPQRT",
    "15": "ADILPRSTV",
    "16": "AEGRST",
    "17": "ADEGKQRST",
    "18": "AFPST",
    "19": "LMPQRV",
    "20": "AGIKLMNQRST",
    "21": "ILPV",
    "22": "AFINPST",
    "23": "CR",
    "24": "ADEGIKLNQRSTV",
    "25": "ADEFGHILMNPRSTVY",
    "26": "ADFHLNPRSTVY",
    "39": "AFIKLMQRTVW",
    "40": "ACDEFGHIKLMNQRSTVY",
    "41": "LRWY",
    "42": "AFHILMSVY",
    "43": "CHKLQR",
    "44": "EHKLQR",
    "45": "ADFGHILMNPRSTVY",
    "46": "ADEHILPQRSTV",
    "47": "ADEGKRSV",
    "48": "ADEGHKLMNQRST",
    "49": "ADEGKNPQRSTV",
    "50": "CEFHIKLNPRV",
    "51": "ADEGKLMNQV",
    "52": "ACDEFGIKLMPQRSTVWY",
    "53": "AEFGILMRV",
    "54": "AEGSTV",
    "55": "ACDEFGHIKLMNQRSTVWY",
    "66": "ADEFGHIKLMNQRSTVWY",
    "67": "ACDFHILNSTVY",
    "68": "ADEGHIKLNPQRSTV",
    "69": "ADEGHKLNPQRSTVY",
    "70": "ADEFGHIKLNPQRSTVWY",
    "71": "AFGILMTV",
    "72": "ADEIKLMNQRST",
    "73": "",
    "74": "ADEFGNRSTV",
    "75": "HKLQRSTW",
    "76": "ACFILSVY",
    "77": "ADFIKLNPRSTV",
    "78": "AFIKLMQSTV",
    "79": "ADFILNPSTY",
    "80": "AEFGHIKLMNPQRSTVWY",
    "81": "ADEGHNSVY",
    "82": "ADEFGHIKLMNPQRSTVY",
    "83": "ADEFGILNPRSTVY",
    "84": "ADEGIKLMNPQRSTV",
    "85": "ADEGHIKMNPQRSTVY",
    "86": "AEFHIKLMNQRSTVY",
    "87": "AFGILMPSTVW",
    "88": "ACDFHILNSTVWY",
    "89": "LMPV",
    "90": "DEGHIKLNQRSTV",
    "91": "ILMTVW",
    "92": "ADEGHIKNRSTVY",
    "93": "ADEFGHIKMNRSTVY",
    "94": "ALMPV",
    "95": "ADEGIKLNQRSTV",
    "96": "ADFGILNPRSTVY",
    "97": "ADEGKLNQSTV",
    "98": "DEG",
    "99": "AMST",
    "100": "ADGSTV",
    "101": "ADEFGIKLMNQRSTV",
    "102": "CFY",
    "103": "CFHILRSTVY",
    "104": "CGRW",
    "118": "ACEFGKLMPQRSTVWY",
    "119": "ADGST",
    "120": "AEHIKLNPQRT",
    "121": "EGV",
    "122": "AINSTV",
    "123": "AKLMPQRSTV",
    "124": "AILV",
    "125": "AIPSTV",
    "126": "EGIV",
    "127": "AGPRST",
    "128": "ADGPRST",
}


def unusual_residues(numbering: Mapping[str, str]) -> int:
    """How many framework positions of a heavy domain hold a residue that hardly any has; 0 if that is usual.

    Args:
        numbering: IMGT position -> residue; X is never unusual.
    """
    unusual = {at for at, letters in RESIDUES.items() if numbering.get(at, "X") not in letters + "X"}
    many = len(unusual) > MOST_UNUSUAL or len(unusual.intersection(_START)) > MOST_UNUSUAL_AT_START
    return len(unusual) if many else 0
