"""The HTTP contract: exact bodies, statuses and headers, with a matcher that says what we say.

The server is the real one; behind it, Kafka and the matcher are a function that gets each record
that the API sends, and gives the answer.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from aiohttp import ClientResponse, ClientSession, FormData, web
from jsonschema import Draft202012Validator
from yarl import URL

from agents.decide import default_match_settings
from schemas.codec import decode_log, decode_question, encode_json
from schemas.reasons import Rejection
from schemas.records import (
    AskCanary,
    AskImage,
    AskMatch,
    CheckIds,
    Fingerprint,
    Hashed,
    ImageMatched,
    KnownImage,
    Match,
    MatchAnswered,
    NearMiss,
    Position,
)
from schemas.topics import INDEX_LOG, MATCH_ASKED
from streams.api import keys
from streams.api.answers import Answers
from streams.api.documents import MATCH_PATH, OTHER_MATCH_PATHS
from streams.api.server import Api
from streams.api.service import Service
from streams.delivery import Outgoing
from streams.errors import RetryableError
from streams.kafka.partitioner import partition_of
from streams.settings import Settings
from tests.waiting import until

PLACE = Position(0, 9)
SHA256 = "eadc688c" * 8
MATCH = Match(
    sha256=SHA256,
    image_id="media-1",
    score=0,
    fine_distance=2,
    relation="near_identical",
    tier="confirmed_sibling",
    weight=0.98,
    views=("whole", "whole"),
    origin="event",
    check=CheckIds(team_id=12, project_media_id=48213),
)
MISS = NearMiss(SHA256, "media-1", 7, 90, ("whole", "trimmed"), "confidence", "event")

Reply = Callable[[MatchAnswered], MatchAnswered | None]


class Matcher:
    """Stands for everything behind the API; `reply` says what it finds."""

    def __init__(self) -> None:
        self.answers: Answers | None = None
        self.records: list[Hashed] = []
        self.questions: list[AskMatch | AskImage] = []
        self.reply: Reply = lambda answered: answered
        self.broken = False

    async def deliver(self, records: Collection[Outgoing], /) -> None:
        """Take records, and answer them."""
        await asyncio.sleep(0)
        for record in records:
            value = record.value or b""
            if record.topic == INDEX_LOG:
                self._hashed(record, value)
            else:
                self._asked(record, value)
        if self.broken:
            raise RetryableError("no broker")

    def _hashed(self, outgoing: Outgoing, value: bytes) -> None:
        hashed = decode_log(value)
        assert isinstance(hashed, Hashed)
        assert hashed.reply is not None
        assert outgoing.partition == partition_of(hashed.workspace, 4)
        # The first record of an id is the one that counts.
        first = next((r for r in self.records if r.image_id == hashed.image_id), hashed)
        self.records.append(hashed)
        outcome = ImageMatched(
            workspace=hashed.workspace,
            image_id=hashed.image_id,
            sha256=first.fingerprint.sha256.hex(),
            position=PLACE,
            match=False,
            closest_match=None,
            matches=(),
            matches_total=0,
            model="model",
            hash_version=1,
            origin="api",
        )
        self._say(MatchAnswered(hashed.reply.request_id, hashed.workspace, PLACE, outcome=outcome))

    def _asked(self, outgoing: Outgoing, value: bytes) -> None:
        question = decode_question(value)
        assert not isinstance(question, Rejection)
        assert outgoing.topic == MATCH_ASKED
        answered = MatchAnswered(question.request_id, question.workspace, PLACE)
        if isinstance(question, AskCanary):
            settings = default_match_settings(4)
            self._say(msgspec.structs.replace(answered, settings=settings))
        elif isinstance(question, AskMatch | AskImage):
            self.questions.append(question)
            self._say(answered)

    def _say(self, answered: MatchAnswered) -> None:
        assert self.answers is not None
        found = answered if answered.settings else self.reply(answered)
        if found is not None:
            self.answers.hear([(found.request_id.encode(), encode_json(found))])

    def finds(self, *matches: Match, miss: NearMiss | None = None) -> None:
        """Answer with these matches from now on."""
        self.reply = lambda answered: msgspec.structs.replace(
            answered,
            closest_match=matches[0] if matches else None,
            matches=matches,
            nearest_miss=miss,
        )


class World:
    """A server, its keys and a client."""

    def __init__(
        self, session: ClientSession, url: URL, matcher: Matcher, settings: Settings
    ) -> None:
        self.session = session
        self.url = url
        self.matcher = matcher
        self.settings = settings

    def key(self, *rights: str, workspace: str = "w") -> dict[str, str]:
        """Make a key, and give the header that carries it."""
        text = keys.create(self.settings.keys_file, workspace, rights or ("match",), now_ms=0)
        return {"Authorization": f"Bearer {text}"}

    def has_records(self, number: int) -> bool:
        """Whether the API has sent so many pictures."""
        return len(self.matcher.records) >= number

    async def post(
        self,
        path: str = MATCH_PATH,
        body: object = b"picture",
        headers: dict[str, str] | None = None,
    ) -> ClientResponse:
        """Send a request, by default a picture with a good key."""
        sent = self.key() if headers is None else headers
        raw = {"Content-Type": "image/jpeg"} if isinstance(body, bytes) else {}
        response = await self.session.post(self.url.join(URL(path)), data=body, headers=raw | sent)
        await response.read()
        return response


async def hash_picture(content: bytes, /) -> Fingerprint | Rejection:
    """Give a fingerprint with the picture's sha256; `bad` is none."""
    if content == b"bad":
        return Rejection("not_an_image", "detail that is ours alone")
    return Fingerprint(1, sha256(content).digest(), "PNG", 9, 9, 9, 9, (), low_information=True)


async def fetch(url: str, workspace: str, /) -> bytes | Rejection:
    """Give the URL as the picture, or what a refusal would be."""
    assert workspace == "w"
    return Rejection("address_refused") if "169.254" in url else url.encode()


Start = Callable[[Settings], Awaitable[World]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Give a function that starts a server with settings."""
    runners: list[web.AppRunner] = []
    tasks: list[asyncio.Task[None]] = []
    async with ClientSession() as session:

        async def started(settings: Settings) -> World:
            matcher = Matcher()
            answers = Answers(settings, deliver=matcher.deliver)
            matcher.answers = answers
            service = Service(answers, fetch=fetch, hash_picture=hash_picture)
            runner = Api(settings, service=service, answers=answers).runner()
            await runner.setup()
            runners.append(runner)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            tasks.append(asyncio.create_task(answers.watch()))
            await asyncio.sleep(0.02)
            url = URL.build(scheme="http", host="127.0.0.1", port=runner.addresses[0][1])
            return World(session, url, matcher, settings)

        yield started
        for task in tasks:
            task.cancel()
        for runner in runners:
            await runner.cleanup()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Give settings with limits that a test can reach."""
    return Settings(
        keys_file=tmp_path / "keys.json",
        picture_limit_bytes=1_000_000,
        request_timeout_seconds=1.0,
        requests_at_once=4,
    )


@pytest.fixture
async def world(start: Start, settings: Settings) -> World:
    """Give a running server."""
    return await start(settings)


def multipart(name: str) -> FormData:
    """Give a form with a picture."""
    form = FormData()
    form.add_field(name, b"picture", filename="p.jpg", content_type="image/jpeg")
    return form


# --- the bodies of the contract ---------------------------------------------------------------


async def test_no_match(world: World) -> None:
    """Two fields and no more."""
    response = await world.post()
    assert response.status == 200
    assert response.content_type == "application/json"
    assert await response.text() == '{"success":true,"match":false}'


async def test_match(world: World) -> None:
    """Sha256 and score of the closest match, and no more."""
    world.matcher.finds(MATCH)
    response = await world.post()
    assert await response.json() == {
        "success": True,
        "match": True,
        "closest_match": {"sha256": SHA256, "score": 0},
    }


async def test_more_permissive(world: World) -> None:
    """The threshold of the request goes to the matcher, with the reply address."""
    world.matcher.finds(msgspec.structs.replace(MATCH, score=7))
    response = await world.post(f"{MATCH_PATH}?threshold=10")
    assert await response.json() == {
        "success": True,
        "match": True,
        "closest_match": {"sha256": SHA256, "score": 7},
    }
    (record,) = world.matcher.records
    assert record.reply is not None
    assert record.reply.threshold == 10


async def test_the_standard_threshold(world: World) -> None:
    """Without one it is the log's."""
    await world.post()
    (record,) = world.matcher.records
    assert record.reply is not None
    assert record.reply.threshold == default_match_settings(4).standard_threshold


async def test_detail_of_a_match(world: World) -> None:
    """All that matched, under which id the picture was stored, and the hash version."""
    world.matcher.finds(MATCH)
    response = await world.post(f"{MATCH_PATH}?detail=true&image_id=mine")
    assert await response.json() == {
        "success": True,
        "match": True,
        "closest_match": {"sha256": SHA256, "score": 0},
        "image_id": "mine",
        "hash_version": 1,
        "matches": [
            {
                "sha256": SHA256,
                "image_id": "media-1",
                "score": 0,
                "fine_distance": 2,
                "relation": "near_identical",
                "tier": "confirmed_sibling",
                "weight": 0.98,
                "views": ["whole", "whole"],
                "origin": "event",
                "check": {"team_id": 12, "project_media_id": 48213},
            }
        ],
    }


async def test_detail_without_a_match(world: World) -> None:
    """The nearest miss, and why it is none."""
    world.matcher.finds(miss=MISS)
    response = await world.post(f"{MATCH_PATH}?detail=true&image_id=mine")
    assert await response.json() == {
        "success": True,
        "match": False,
        "image_id": "mine",
        "hash_version": 1,
        "matches": [],
        "nearest_miss": {
            "sha256": SHA256,
            "image_id": "media-1",
            "score": 7,
            "fine_distance": 90,
            "views": ["whole", "trimmed"],
            "reason": "confidence",
            "origin": "event",
        },
    }


@pytest.mark.parametrize("path", [MATCH_PATH, *OTHER_MATCH_PATHS])
@pytest.mark.parametrize("name", ["image", "q"])
async def test_paths_and_field_names(world: World, path: str, name: str) -> None:
    """With and without the final slash, the two older paths, and both names."""
    response = await world.post(path, multipart(name))
    assert await response.text() == '{"success":true,"match":false}'


async def test_what_is_stored(world: World) -> None:
    """The picture's hash, its ids, whose it is, and that it came through the API."""
    before_ms = time.time_ns() // 1_000_000
    await world.post(f"{MATCH_PATH}?image_id=mine&team_id=3&project_media_id=4")
    (record,) = world.matcher.records
    assert record.fingerprint.sha256 == sha256(b"picture").digest()
    assert (record.workspace, record.image_id, record.origin) == ("w", "mine", "api")
    assert record.check == CheckIds(team_id=3, project_media_id=4)
    assert record.source is None
    assert record.ingested_at_ms >= before_ms


async def test_a_url_is_fetched(world: World) -> None:
    """In JSON; the picture is what the address gives."""
    session_headers = world.key() | {"Content-Type": "application/json"}
    body = json.dumps({"url": "http://host/p.jpg"}).encode()
    response = await world.session.post(world.url / "v1/match/", data=body, headers=session_headers)
    assert response.status == 200
    (record,) = world.matcher.records
    assert record.fingerprint.sha256 == sha256(b"http://host/p.jpg").digest()


async def test_asking_without_storing(world: World) -> None:
    """A question, and nothing in the log."""
    world.matcher.finds(MATCH)
    response = await world.post(f"{MATCH_PATH}?store=false&detail=true&threshold=3")
    body = await response.json()
    assert body["match"] is True
    assert "image_id" not in body
    assert world.matcher.records == []
    (question,) = world.matcher.questions
    assert isinstance(question, AskMatch)
    assert (question.workspace, question.threshold) == ("w", 3)


async def test_what_is_known_of_a_picture(world: World) -> None:
    """Each picture with these bytes, and what it relates to."""
    known = KnownImage(SHA256, "media-1", 1000, PLACE, "event", (MATCH,))
    world.matcher.reply = lambda answered: msgspec.structs.replace(answered, images=(known,))
    url = world.url / "v1/images" / SHA256
    response = await world.session.get(url, headers=world.key("read"))
    assert await response.json() == {
        "success": True,
        "images": [json.loads(encode_json(known))],
    }
    (question,) = world.matcher.questions
    assert isinstance(question, AskImage)
    assert question.sha256.hex() == SHA256


async def test_nothing_is_known(world: World) -> None:
    """Whether it is another workspace's or nobody's is not told."""
    url = world.url / "v1/images" / SHA256
    response = await world.session.get(url, headers=world.key("read"))
    assert response.status == 404
    assert (await response.json())["error"]["code"] == "not_found"


# --- the same request again -------------------------------------------------------------------


async def test_an_idempotency_key_makes_one_picture(world: World) -> None:
    """The same key and header have the same image id; others have another one."""
    key, other = world.key(), world.key()
    for headers in (
        key | {"Idempotency-Key": "one"},
        key | {"Idempotency-Key": "one"},
        key | {"Idempotency-Key": "two"},
        other | {"Idempotency-Key": "one"},
        key,
        key,
    ):
        assert (await world.post(headers=headers)).status == 200
    ids = [record.image_id for record in world.matcher.records]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 5


@pytest.mark.parametrize("by", ["header", "image_id"])
async def test_an_id_of_another_picture_is_refused(world: World, by: str) -> None:
    """The stored outcome is another picture's; to tell it would be wrong."""
    headers = world.key() | ({"Idempotency-Key": "one"} if by == "header" else {})
    path = MATCH_PATH if by == "header" else f"{MATCH_PATH}?image_id=mine"
    await world.post(path, b"one picture", headers)
    response = await world.post(path, b"another", headers)
    assert response.status == 422
    assert (await response.json())["error"]["code"] == "id_reused"


# --- no answer --------------------------------------------------------------------------------


async def error_of(response: ClientResponse) -> tuple[int, str]:
    """Check that an error's body has its form; give status and code."""
    body = await response.json()
    assert set(body) == {"success", "error"}
    assert body["success"] is False
    assert set(body["error"]) == {"code", "message"}
    assert body["error"]["message"]
    return response.status, body["error"]["code"]


@pytest.mark.parametrize(
    "threshold",
    ["11", "-1", "6.5", "x", "", "000000000012", "0" * 10 + "9" * 5000, "+5", " 5", "٣"],
)
async def test_a_threshold_that_is_not_allowed(world: World, threshold: str) -> None:
    """Refused with what is allowed, before anything is stored."""
    response = await world.post(f"{MATCH_PATH}?threshold={threshold}")
    assert await error_of(response) == (400, "threshold_invalid")
    assert "0 to 10" in await response.text()
    assert world.matcher.records == []


async def test_a_threshold_with_leading_zeros(world: World) -> None:
    """Is the number that it is."""
    assert (await world.post(f"{MATCH_PATH}?threshold=000")).status == 200
    assert (await world.post(f"{MATCH_PATH}?threshold=0000000000010")).status == 200
    assert [r.reply.threshold for r in world.matcher.records if r.reply] == [0, 10]


async def test_not_an_image(world: World) -> None:
    """The reason's code; nothing of its detail."""
    response = await world.post(body=b"bad")
    assert await error_of(response) == (422, "not_an_image")
    assert "ours alone" not in await response.text()


async def test_an_address_inside_is_refused(world: World) -> None:
    """As the hasher refuses it."""
    headers = world.key() | {"Content-Type": "application/json"}
    body = b'{"url": "http://169.254.169.254/"}'
    response = await world.session.post(world.url / "v1/match/", data=body, headers=headers)
    assert await error_of(response) == (400, "address_refused")


async def test_a_body_beyond_the_limit(world: World) -> None:
    """Announced: refused before it is sent. Not announced: while it comes in."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(100_000)

    assert await error_of(await world.post(body=bytes(2_000_000))) == (413, "body_too_large")
    headers = world.key() | {"Content-Type": "image/png"}
    response = await world.session.post(world.url / "v1/match/", data=endless(), headers=headers)
    assert await error_of(response) == (413, "body_too_large")


async def test_a_picture_beyond_the_limit(world: World) -> None:
    """Of a body that is not, since that may hold an envelope too; each of a pair counts."""
    beyond = bytes(world.settings.picture_limit_bytes + 1)
    assert await error_of(await world.post(body=beyond)) == (413, "picture_too_large")
    response = await world.post("/v1/compare/", pair(second=beyond))
    assert await error_of(response) == (413, "picture_too_large")
    assert world.matcher.records == []


@pytest.mark.parametrize("content", [b"\xff\xd8\xff\xe0", bytes(200_000)])
async def test_a_file_sent_as_a_form(world: World, content: bytes) -> None:
    """As curl does without a Content-Type: told what to do, whatever its size."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    response = await world.post(body=content, headers=world.key() | form)
    assert await error_of(response) == (415, "type_unsupported")
    assert "Content-Type: image/jpeg" in await response.text()


@pytest.mark.parametrize("headers", [{"Content-Type": "text/plain"}, {"Content-Encoding": "gzip"}])
async def test_a_body_of_another_type(world: World, headers: dict[str, str]) -> None:
    """Neither guessed nor unpacked."""
    response = await world.session.post(
        world.url / "v1/match/",
        data=b"x",
        headers={"Content-Type": "image/png"} | world.key() | headers,
    )
    assert await error_of(response) == (415, "type_unsupported")


async def test_keys_and_rights(world: World) -> None:
    """No key and a wrong one 401, a key without the right 403; both headers are read."""
    good = world.key("match")["Authorization"].removeprefix("Bearer ")
    wrong: list[dict[str, str]] = [
        {},
        {"X-Api-Key": good + "x"},
        {"Authorization": f"Basic {good}"},
    ]
    for headers in wrong:
        response = await world.post(headers=headers)
        assert await error_of(response) == (401, "key_wrong")
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert good not in await response.text()
    assert (await world.post(headers={"X-Api-Key": good})).status == 200
    assert await error_of(await world.post(headers=world.key("read"))) == (403, "right_missing")
    response = await world.session.get(world.url / "v1/images" / SHA256, headers=world.key("match"))
    assert await error_of(response) == (403, "right_missing")


async def test_a_revoked_key(world: World) -> None:
    """Refused from the next request on."""
    headers = world.key()
    assert (await world.post(headers=headers)).status == 200
    (key,) = keys.read(world.settings.keys_file)
    keys.revoke(world.settings.keys_file, key.id)
    assert (await world.post(headers=headers)).status == 401


async def test_the_rate_of_a_key(start: Start, settings: Settings) -> None:
    """429 with Retry-After; each answer says what is left; another key is not held up."""
    world = await start(limited(settings, rate_burst=2, rate_per_second=0.01))
    headers = world.key()
    responses = [await world.post(headers=headers) for _ in range(3)]
    assert [response.headers["RateLimit-Remaining"] for response in responses] == ["1", "0", "0"]
    assert await error_of(responses[2]) == (429, "rate_exceeded")
    assert int(responses[2].headers["Retry-After"]) > 50
    assert (await world.post()).status == 200


def limited(settings: Settings, **changed: float) -> Settings:
    """Give other settings."""
    return replace(settings, **changed)  # type: ignore[arg-type]


async def test_nobody_answers(start: Start, settings: Settings) -> None:
    """Without an answer to a recent question: 503, and nothing is stored."""
    world = await start(limited(settings, answer_age_limit_seconds=0.1))
    await asyncio.sleep(0.3)
    response = await world.post()
    assert await error_of(response) == (503, "not_answering")
    assert "Retry-After" in response.headers
    assert world.matcher.records == []
    ready = await world.session.get(world.url / "readyz")
    assert ready.status == 200
    assert await ready.json() == {"status": "degraded", "late_partitions": [0, 1, 2, 3]}


@pytest.mark.parametrize("trouble", ["silence", "broker"])
async def test_an_answer_that_does_not_come(world: World, trouble: str) -> None:
    """504 with the key to retry with, which makes the retry the same picture."""
    if trouble == "silence":
        world.matcher.reply = lambda _: None
    else:
        world.matcher.broken = True
        world.matcher.reply = lambda _: None
    headers = world.key()
    response = await world.post(headers=headers)
    assert await error_of(response) == (504, "answer_late")
    world.matcher.finds()
    world.matcher.broken = False
    retry = headers | {"Idempotency-Key": response.headers["Idempotency-Key"]}
    assert (await world.post(headers=retry)).status == 200
    first, second = world.matcher.records
    assert first.image_id == second.image_id


async def test_a_question_that_is_not_answered(world: World) -> None:
    """503: a question stores nothing, whatever became of it."""
    world.matcher.reply = lambda _: None
    response = await world.post(f"{MATCH_PATH}?store=false")
    assert await error_of(response) == (503, "not_answering")


async def test_too_many_at_once(start: Start, settings: Settings) -> None:
    """503 for the one too many, at once."""
    world = await start(limited(settings, requests_at_once=1))
    world.matcher.reply = lambda _: None
    headers = world.key()
    first = asyncio.create_task(world.post(headers=headers))
    await until(partial(world.has_records, 1), 1.0)
    assert await error_of(await world.post(headers=headers)) == (503, "busy")
    assert (await first).status == 504


async def test_a_client_that_is_gone(world: World) -> None:
    """Its place is free at once."""
    world.matcher.reply = lambda _: None
    headers = world.key()
    for number in range(1, 7):
        task = asyncio.create_task(world.post(headers=headers))
        await until(partial(world.has_records, number), 1.0)
        task.cancel()
        await asyncio.sleep(0.05)
    world.matcher.finds()
    assert (await world.post(headers=headers)).status == 200


async def test_unknown_paths_and_methods(world: World) -> None:
    """In the form of all other errors."""
    assert await error_of(await world.post("/v2/match")) == (404, "not_found")
    response = await world.session.get(world.url / "v1/match/")
    assert await error_of(response) == (405, "method_not_allowed")
    assert response.headers["Allow"] == "POST"


async def test_a_body_that_does_not_come(world: World) -> None:
    """Refused when the time of a request is over."""
    key = world.key()["Authorization"]
    reader, writer = await asyncio.open_connection("127.0.0.1", world.url.port)
    writer.write(
        f"POST {MATCH_PATH} HTTP/1.1\r\nHost: h\r\nAuthorization: {key}\r\n"
        "Content-Type: image/png\r\nContent-Length: 100\r\n\r\nab".encode()
    )
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert head.startswith(b"HTTP/1.1 400 ")
    writer.close()


async def raw(world: World, head: str) -> tuple[str, dict[str, object]]:
    """Send a request's header as it is; give the whole answer and its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.url.port)
    writer.write(head.encode())
    answer = (await asyncio.wait_for(reader.read(100_000), 5)).decode()
    writer.close()
    return answer, json.loads(answer.partition("\r\n\r\n")[2])


@pytest.mark.parametrize(
    "line",
    [
        "Authorization: Bearer cd_1_secret" + "x" * 9000,
        "X-Api-Key cd_1_secret",
        "Content-Length: -1",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
    ],
)
async def test_what_is_no_request(world: World, line: str) -> None:
    """Is answered as everything else is, and what could not be read is not repeated."""
    answer, body = await raw(world, f"POST {MATCH_PATH} HTTP/1.1\r\nHost: h\r\n{line}\r\n\r\n")
    assert answer.split()[1] == "400"
    assert body == {
        "success": False,
        "error": {
            "code": "request_invalid",
            "message": "This is no HTTP request, or its header is longer than we read.",
        },
    }


@pytest.mark.parametrize("expected", ["100-continue", "something"])
async def test_a_body_is_asked_for_when_the_request_may_go_on(world: World, expected: str) -> None:
    """Not before its key was found good; what else a client expects is ignored."""
    head = f"POST {MATCH_PATH} HTTP/1.1\r\nHost: h\r\nExpect: {expected}\r\nContent-Length: 7\r\n"
    answer, _ = await raw(world, f"{head}Connection: close\r\n\r\n")
    assert answer.startswith("HTTP/1.1 401 ")
    key = world.key()["Authorization"]
    reader, writer = await asyncio.open_connection("127.0.0.1", world.url.port)
    writer.write(f"{head}Content-Type: image/png\r\nAuthorization: {key}\r\n\r\n".encode())
    if expected == "100-continue":
        assert await asyncio.wait_for(reader.readline(), 5) == b"HTTP/1.1 100 Continue\r\n"
        await reader.readline()
    writer.write(b"picture")
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 200 ")
    writer.close()


# --- documents --------------------------------------------------------------------------------


async def test_documents(world: World) -> None:
    """OpenAPI 3.1 whose schemas are schemas; a page that loads nothing from anywhere."""
    response = await world.session.get(world.url / "openapi.json")
    document = await response.json()
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) >= {MATCH_PATH, *OTHER_MATCH_PATHS, "/v1/images/{sha256}"}
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    response = await world.session.get(world.url / "docs")
    page = await response.text()
    assert "src=" not in page
    assert "<script" not in page
    assert MATCH_PATH in page


async def test_health(world: World) -> None:
    """No key is needed."""
    for path in ("healthz", "readyz"):
        response = await world.session.get(world.url / path)
        assert await response.json() == {"status": "ok", "late_partitions": []}


def pair(first: bytes = b"one", second: bytes = b"two", **others: bytes) -> FormData:
    """Give a form with two pictures to compare."""
    form = FormData()
    for name, content in {"first": first, "second": second, **others}.items():
        form.add_field(name, content, filename=name, content_type="image/png")
    return form


async def test_two_pictures_are_compared(world: World) -> None:
    """The same bytes are identical, others are not related; nothing is asked or stored."""
    response = await world.post("/v1/compare/", pair(second=b"one"))
    body = await response.json()
    plain = {
        "sha256": sha256(b"one").hexdigest(),
        "width_pixels": 9,
        "height_pixels": 9,
        "low_information": True,
        "views": [],
    }
    assert (response.status, body) == (
        200,
        {
            "success": True,
            "related": True,
            "relation": "identical",
            "tier": "confirmed_sibling",
            "score": None,
            "fine_distance": None,
            "weight": 1.0,
            "views": ["whole", "whole"],
            "explanation": "The same bytes.",
            "first": plain,
            "second": plain,
        },
    )
    body = await (await world.post("/v1/compare/", pair())).json()
    assert (body["related"], body["relation"]) == (False, None)
    assert (world.matcher.records, world.matcher.questions) == ([], [])


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (pair(second=b""), 400, "picture_empty"),
        (pair(second=b"bad"), 422, "not_an_image"),
        ({"first": "one"}, 415, "type_unsupported"),
        (b"picture", 415, "type_unsupported"),
    ],
)
async def test_a_pair_that_is_none(world: World, body: object, status: int, code: str) -> None:
    """What is wrong with the pair is told; a picture too few is one of the things."""
    response = await world.post("/v1/compare/", body)
    assert (response.status, (await response.json())["error"]["code"]) == (status, code)


@pytest.mark.parametrize("names", [("first",), ("second", "second"), ("first", "first", "second")])
async def test_not_exactly_a_pair(world: World, names: tuple[str, ...]) -> None:
    """One picture, two of one name, and three are no pair."""
    form = FormData()
    for name in names:
        form.add_field(name, b"one", filename="one", content_type="image/png")
    response = await world.post("/v1/compare/", form)
    assert response.status == 400
    assert (await response.json())["error"]["code"] == "pair_missing"


async def test_comparing_takes_the_right_to_match(world: World) -> None:
    """No key, and a key for reading only, compare nothing."""
    for headers, status in (({}, 401), (world.key("read"), 403)):
        assert (await world.post("/v1/compare/", pair(), headers)).status == status


async def test_the_page_loads_nothing_foreign(world: World) -> None:
    """Its files are served, name no host, have no inline code, and may not be framed."""
    for path, kind in (("/", "html"), ("/page.css", "css"), ("/page.js", "javascript")):
        response = await world.session.get(world.url / path.lstrip("/"))
        text = await response.text()
        assert (response.status, response.content_type) == (200, f"text/{kind}")
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        # The name of the SVG namespace is an identifier, and is not asked.
        assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", "")
    page = await (await world.session.get(world.url)).text()
    assert "<script>" not in page
    assert " style=" not in page
