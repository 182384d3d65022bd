"""How a gateway shows a node's relay who it is, and knows that it is a relay."""

import ssl

from gateway.config import Config


class ClientTls:
    """The context of the configured certificate; a renewed file counts from the next connection."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._context: ssl.SSLContext | None = None
        self._stamp: tuple[int, ...] = ()

    def context(self) -> ssl.SSLContext | None:
        """None without a certificate. Raises OSError (ssl.SSLError) when it cannot be used."""
        config = self._config
        files = (config.certificate, config.certificate_key, config.certificate_ca)
        if config.certificate is None:
            return None
        stamp = tuple(file.stat().st_mtime_ns for file in files if file is not None)
        if stamp != self._stamp:
            # Our own authority alone, and no other purpose of a certificate than a server's.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_verify_locations(config.certificate_ca)
            context.load_cert_chain(config.certificate, config.certificate_key)
            self._context, self._stamp = context, stamp
        return self._context
