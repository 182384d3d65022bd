"""TLS on both sides: for clients where that is configured, and to the relays of nodes."""

import ssl

from gateway.config import Config, ConfigError


def for_clients(config: Config) -> ssl.SSLContext | None:
    """What clients are served with; None: plain HTTP. Raises ConfigError.

    Workers that share one context resume each other's sessions.
    """
    if config.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without a password, a sealed key is an error and not a question at a terminal.
        context.load_cert_chain(config.tls_certificate, config.tls_key, password="")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"STOA_GATEWAY_TLS_CERTIFICATE={config.tls_certificate} or"
            f" STOA_GATEWAY_TLS_KEY={config.tls_key}: {error}"
        ) from error
    return context


class ClientTls:
    """Shows relays who we are, and knows one: the context of the configured certificate.

    A renewed file counts from the next connection.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._context: ssl.SSLContext | None = None
        self._stamp: tuple[int, ...] = ()

    @property
    def shown(self) -> ssl.SSLContext | None:
        """The context that the last connection was made with."""
        return self._context

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
