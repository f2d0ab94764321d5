"""A client for `abonyx serve` (extra `client`). It needs neither ONNX Runtime nor a bundle.

from abonyx.client import Client

with Client("http://127.0.0.1:8000") as client:
p = client.score(["EVQLVESGGGLVQPGG..."]).p_nonspecific
"""

from abonyx.client.client import Client
from abonyx.client.results import Embedded, Explained, Scored

__all__ = ["Client", "Embedded", "Explained", "Scored"]
