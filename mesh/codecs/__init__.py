"""Encryption of what jobs carry: ``Mesh(..., codec=Fernet(key))``."""

from mesh.codecs.base import Codec as Codec
from mesh.codecs.fernet import Fernet as Fernet

__all__ = ["Codec", "Fernet"]
