"""Other ways to get the very same rows into the same PostgreSQL."""

import io
import time

import psycopg
from psycopg.types.json import Jsonb

NAIVE_S = 5.0
_COLUMNS = (
    *("id", "at", "account_id", "project_id", "key_id", "endpoint_id", "replica_id"),
    *("request_id", "region", "device_kind", "meter", "basis", "quantity", "flags"),
)
_ADD = f"INSERT INTO naive ({', '.join(_COLUMNS)}) VALUES ({', '.join(['%s'] * len(_COLUMNS))})"
_SUM = (
    "INSERT INTO naive_sum VALUES (%s, %s, %s) ON CONFLICT (account, meter)"
    " DO UPDATE SET quantity = naive_sum.quantity + excluded.quantity"
)


def bare_copy(url: str, events: int) -> float:
    """Events a second by COPY into a table without an index, from memory, in one transaction."""
    rows = io.BytesIO()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE bare AS SELECT * FROM billing_usageevent WHERE false")
        everything = "COPY (SELECT * FROM billing_usageevent) TO STDOUT (FORMAT binary)"
        with connection.cursor().copy(everything) as out:
            for part in out:
                rows.write(part)
        connection.commit()
        began = time.perf_counter()
        with connection.cursor().copy("COPY bare FROM STDIN (FORMAT binary)") as into:
            into.write(rows.getbuffer())
        connection.commit()
        took = time.perf_counter() - began
        connection.execute("DROP TABLE bare")
    return events / took


def one_by_one(url: str) -> float:
    """Events a second, each in a transaction of its own that adds it to a sum, too."""
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE naive (LIKE billing_usageevent INCLUDING ALL)")
        connection.execute(
            "CREATE TABLE naive_sum"
            " (account text, meter text, quantity bigint, PRIMARY KEY (account, meter))"
        )
        some = connection.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM billing_usageevent LIMIT 20000"
        ).fetchall()
        connection.commit()
        done, began = 0, time.perf_counter()
        for row in some:
            one = dict(zip(_COLUMNS, row, strict=True)) | {"flags": Jsonb(row[-1])}
            connection.execute(_ADD, list(one.values()))
            connection.execute(_SUM, [one["account_id"], one["meter"], one["quantity"]])
            connection.commit()
            done += 1
            if time.perf_counter() - began > NAIVE_S:
                break
        return done / (time.perf_counter() - began)
