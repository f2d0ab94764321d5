"""Residues that occur in the framework of heavy domains, by IMGT position.

benchmarks/framework_residues.py counted them in 12,825 whole human VH and camelid VHH of OAS (CC BY 4.0): the domains
of Bernat et al. 2019, and those of the therapeutic nanobody profiler. A residue is listed for a position if at least
0.1 % of the domains have it there. The table is needed because the numbering only tells where a domain begins and ends.
It numbers half a light chain, a tag in the place of framework 1, or shuffled residues like a whole domain.
"""

from __future__ import annotations

from collections.abc import Mapping

# The domains of Jain and Shehata, which are not in the table's data, have at most 2 unlisted residues. 99.5 % of
# Harvey's nanobodies have at most 5. A domain has 7 or more if a tag replaces its framework 1.
MOST_UNUSUAL = 5
# At IMGT positions 1 to 10, all of these domains except 0.1 % of Harvey's nanobodies have at most 2 unlisted residues.
# A domain has 3 if a tag replaces its first five residues.
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
    """Number of framework residues of a heavy domain that RESIDUES does not list; 0 if the number is not unusual.

    Args:
        numbering: IMGT position -> residue; X is never unusual.
    """
    unusual = {at for at, letters in RESIDUES.items() if numbering.get(at, "X") not in letters + "X"}
    many = len(unusual) > MOST_UNUSUAL or len(unusual.intersection(_START)) > MOST_UNUSUAL_AT_START
    return len(unusual) if many else 0
