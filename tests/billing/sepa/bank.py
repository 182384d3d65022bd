"""A bank that writes statements, in both versions of camt.053 that are read."""

from dataclasses import dataclass, field
from decimal import Decimal
from xml.sax.saxutils import escape

OURS = "DE89370400440532013000"
THEIRS = "FR1420041010050500013M02606"


@dataclass
class Payment:
    """One TxDtls. `amount` unsigned; None leaves it out, as banks may in version 02."""

    amount: str | None = None
    text: str = ""
    reference: str = ""
    end_to_end: str = ""
    mandate: str = ""
    name: str = "CALCUL SA"
    iban: str = THEIRS
    returned: str = ""
    charges: str = ""


@dataclass
class Movement:
    """One Ntry. `amount` is signed."""

    amount: str
    payments: list[Payment] = field(default_factory=list)
    bank_reference: str = ""
    reversal: bool = False
    charges: str = ""
    status: str = "BOOK"
    currency: str = "EUR"
    count: int = 0
    day: str = "2026-11-26"
    info: str = ""


def document(
    movements: list[Movement],
    version: str = "08",
    opening: str = "1000.00",
    closing: str | None = None,
    identifier: str = "STMT-1",
    currency: str = "EUR",
) -> bytes:
    """The file, with the closing balance that its booked movements make, if none is said."""
    if closing is None:
        booked = [Decimal(each.amount) for each in movements if each.status == "BOOK"]
        closing = str(Decimal(opening) + sum(booked, Decimal(0)))
    entries = "".join(_entry(each, version) for each in movements)
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.{version}">
<BkToCstmrStmt>
<GrpHdr><MsgId>MSG-1</MsgId><CreDtTm>2026-11-26T18:00:00</CreDtTm></GrpHdr>
<Stmt><Id>{identifier}</Id><ElctrncSeqNb>230</ElctrncSeqNb><CreDtTm>2026-11-26T18:00:00</CreDtTm>
<Acct><Id><IBAN>{OURS}</IBAN></Id><Ccy>{currency}</Ccy></Acct>
{_balance("OPBD", opening)}{_balance("CLBD", closing)}{entries}</Stmt>
</BkToCstmrStmt>
</Document>
""".encode()


def _money(amount: str, currency: str = "EUR") -> str:
    return f'<Amt Ccy="{currency}">{amount.lstrip("-")}</Amt>'


def _direction(amount: str) -> str:
    return f"<CdtDbtInd>{'DBIT' if amount.startswith('-') else 'CRDT'}</CdtDbtInd>"


def _balance(code: str, amount: str) -> str:
    return (
        f"<Bal><Tp><CdOrPrtry><Cd>{code}</Cd></CdOrPrtry></Tp>{_money(amount)}"
        f"{_direction(amount)}<Dt><Dt>2026-11-26</Dt></Dt></Bal>"
    )


def _entry(move: Movement, version: str) -> str:
    status = f"<Cd>{move.status}</Cd>" if version == "08" else move.status
    details = "".join(_payment(each, move, version) for each in move.payments)
    batch = f"<Btch><NbOfTxs>{move.count}</NbOfTxs></Btch>" if move.count else ""
    return (
        f"<Ntry>{_money(move.amount, move.currency)}{_direction(move.amount)}"
        f"{'<RvslInd>true</RvslInd>' if move.reversal else ''}<Sts>{status}</Sts>"
        f"<BookgDt><Dt>{move.day}</Dt></BookgDt><ValDt><DtTm>{move.day}T00:00:00</DtTm></ValDt>"
        + _tag("AcctSvcrRef", move.bank_reference)
        + "<BkTxCd><Domn><Cd>PMNT</Cd><Fmly><Cd>RCDT</Cd><SubFmlyCd>ESCT</SubFmlyCd></Fmly></Domn>"
        + f"</BkTxCd>{_charges(move.charges, version)}"
        + (f"<NtryDtls>{batch}{details}</NtryDtls>" if batch or details else "")
        + _tag("AddtlNtryInf", move.info)
        + "</Ntry>"
    )


def _payment(payment: Payment, move: Movement, version: str) -> str:
    new = version == "08"
    amount = ""
    if payment.amount is not None:
        money = _money(payment.amount, move.currency)
        amount = (
            money + _direction(move.amount) if new else f"<AmtDtls><TxAmt>{money}</TxAmt></AmtDtls>"
        )
    side = (
        "Dbtr" if move.amount.startswith("-") is bool(move.reversal or payment.returned) else "Cdtr"
    )
    named = _tag("Nm", payment.name)
    party = f"<{side}><Pty>{named}</Pty></{side}>" if new else f"<{side}>{named}</{side}>"
    account = f"<{side}Acct><Id><IBAN>{payment.iban}</IBAN></Id></{side}Acct>"
    words = _tag("Ustrd", payment.text)
    if payment.reference:
        words += f"<Strd><CdtrRefInf><Ref>{payment.reference}</Ref></CdtrRefInf></Strd>"
    returned = (
        f"<RtrInf><Rsn><Cd>{payment.returned}</Cd></Rsn></RtrInf>" if payment.returned else ""
    )
    return (
        f"<TxDtls><Refs>{_tag('EndToEndId', payment.end_to_end or 'NOTPROVIDED')}"
        f"{_tag('MndtId', payment.mandate)}</Refs>{amount}{_charges(payment.charges, version)}"
        f"<RltdPties>{party}{account if payment.iban else ''}</RltdPties>"
        f"{f'<RmtInf>{words}</RmtInf>' if words else ''}{returned}</TxDtls>"
    )


def _charges(amount: str, version: str) -> str:
    if not amount:
        return ""
    inner = _money(amount) + "<CdtDbtInd>DBIT</CdtDbtInd>"
    return f"<Chrgs><Rcrd>{inner}</Rcrd></Chrgs>" if version == "08" else f"<Chrgs>{inner}</Chrgs>"


def _tag(name: str, text: str) -> str:
    return f"<{name}>{escape(text)}</{name}>" if text else ""
