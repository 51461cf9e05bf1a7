"""The engine: config, registry, training loop, data loading, evaluation. It knows neither CLIP nor prompts.

The public interface is that of Dassl 0.6 (names, signatures, config keys), written afresh for today's torch:
a trainer written for Dassl runs here unmodified. The version is that of the interface.
"""

from dassl import absent

__version__ = "0.6.0"

absent.tell()
