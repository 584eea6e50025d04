"""Who may do what in the console: tokens and roles, sessions, foreign sites, hostile input; by real HTTP."""

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from services.console.runs import LISTED
from stablerep.client import Client
from stablerep.config.recipe import load_recipe
from stablerep.config.settings import Auth
from stablerep.queue.client import Queue
from stablerep.shards import (
    DatasetInfo,
    Group,
    build_tar,
    commit_shard,
    skipped_group,
    write_captions,
    write_dataset,
)
from stablerep.shards.layout import dataset_key, map_key, run_key, sweep_key
from stablerep.storage import open_store
from stablerep.testing.servers import RedisServer
from stablerep.tokens import add_token, new_token
from tests.consoles import chromium, console_served, csrf_of, watched
from tests.fronts import served
from tests.tools import redis_program

HOSTILE = '<script>window.hacked=1</script><img src=x onerror="window.hacked=1">"\'`{{7*7}}'
PAGES = ("/jobs", "/submit", "/datasets", "/datasets/shoes", "/runs", "/train", "/sweeps", "/system")


@dataclass(frozen=True)
class Place:
    url: str
    gateway: str
    folder: Path
    redis_url: str
    tokens: dict[str, str]

    def client(self, role: str | None = None) -> httpx.Client:
        """A browser's client, signed in by a form where a role is given."""
        client = httpx.Client(base_url=self.url, follow_redirects=True)
        if role:
            sent = {"token": self.tokens[role], "csrf": csrf_of(client, "/sign-in"), "next": "/jobs"}
            assert client.post("/sign-in", data=sent).url.path == "/jobs"
        return client


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("console")
    server = RedisServer(redis_program("valkey"), tmp_path_factory.mktemp("redis"))
    file, tokens = folder / "tokens.yaml", {}
    for role in ("read", "submit", "admin"):
        tokens[role], token = new_token(role, role, None)  # type: ignore[arg-type]
        add_token(file, token)
    make_shoes(folder)
    with (
        served(folder, server.url, auth=Auth(tokens_file=file)) as fronts,
        console_served(folder, fronts.gateway, console={"hosts": ("console.test", "127.0.0.1")}) as url,
    ):
        yield Place(url, fronts.gateway, folder, server.url, tokens)
    server.stop()


ODD = ("seeds", "truncated", "batch_images", "compiled", "recipe_digest", "error", "flags")
"""Keys of a group's JSON, under which anything may stand."""


def make_shoes(folder: Path) -> None:
    """A dataset of four groups and a skipped caption; what people wrote into it is hostile."""
    store, recipe = open_store((folder / "store").as_uri()), load_recipe("flat")
    info = {"name": "shoes", "recipe": recipe.model_dump(), "recipe_digest": recipe.digest, "job_seed": 3}
    more = {"captions_per_shard": 5, "source": {"uri": HOSTILE}, "create_time": "2026-01-01T00:00:00Z"}
    write_dataset(store, DatasetInfo.model_validate(info | more))
    groups = [
        Group(0, HOSTILE, (b"<script>alert(1)</script>", b"\xff\xd8\xff not an image"), {"seeds": [1, 2]}),
        skipped_group(1, HOSTILE, HOSTILE),
        Group(2, "a red shoe", (b"\xff\xd8\xff",), {"truncated": True, "batch_images": 4, "seeds": HOSTILE}),
        Group(3, "a red bag", (b"\xff\xd8\xff",), dict.fromkeys(ODD, 5)),
        Group(4, "a red hat", (b"\xff\xd8\xff",), {key: {"x": [HOSTILE]} for key in ODD}),
    ]
    write_captions(store, "shoes", 0, [(group.caption_id, group.caption) for group in groups])
    commit_shard(store, "shoes", 0, build_tar(groups))


def test_without_a_token_every_page_leads_to_the_sign_in_and_nothing_is_read(place: Place) -> None:
    for path in (*PAGES, "/datasets/shoes/captions/0/0.jpg", "/compare?run=a"):
        answer = httpx.get(place.url + path)
        assert (answer.status_code, answer.headers["location"].split("?")[0]) == (303, "/sign-in")
        answer = httpx.get(place.url + path, headers={"accept": "application/json"})
        assert answer.status_code == 401
        assert answer.json()["kind"] == "Unauthenticated"
    assert httpx.get(place.url + "/events/jobs").status_code == 401
    assert httpx.get(place.url + "/healthz").text == "ok\n"


def test_a_wrong_token_is_told_and_a_right_one_leads_back(place: Place) -> None:
    client = place.client()
    sent = {"csrf": csrf_of(client, "/sign-in"), "token": "srt_" + "A" * 43}
    answer = client.post("/sign-in", data=sent)
    assert answer.status_code == 401
    assert "not one of this server" in answer.text
    for text in ("", "no token\u00e9", "two words"):
        answer = client.post("/sign-in", data={"csrf": csrf_of(client, "/sign-in"), "token": text})
        assert answer.status_code == 401
    landed = client.get("/datasets/shoes?q=red")
    assert landed.url.path == "/sign-in"
    target = re.search(r'name="next" value="([^"]*)"', landed.text)
    assert target is not None
    sent = {"csrf": csrf_of(client, str(landed.url)), "token": place.tokens["read"]}
    answer = client.post("/sign-in", data={**sent, "next": target[1].replace("&amp;", "&")})
    assert str(answer.url).endswith("/datasets/shoes?q=red")
    assert "a red shoe" in answer.text


@pytest.mark.parametrize(
    "target", ["//evil.test/", "/\\evil.test", "https://evil.test/", "javascript:alert(1)"]
)
def test_a_sign_in_leads_nowhere_else(place: Place, target: str) -> None:
    client = place.client()
    sent = {"csrf": csrf_of(client, "/sign-in"), "token": place.tokens["read"], "next": target}
    answer = client.post("/sign-in", data=sent, follow_redirects=False)
    assert answer.headers["location"] == "/jobs"


def test_the_cookie_says_nothing_and_is_kept_from_scripts_and_other_sites(place: Place) -> None:
    client = place.client("admin")
    answer = client.get("/sign-in")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert place.tokens["admin"] not in "".join(client.cookies.values())
    changed = client.cookies["stablerep-console"][:-4] + "AAAA"
    answer = httpx.get(place.url + "/jobs", cookies={"stablerep-console": changed})
    assert answer.status_code == 303


def test_looking_at_the_sign_in_changes_no_session(place: Place) -> None:
    client = place.client("read")
    csrf = csrf_of(client, "/submit")
    assert csrf_of(client, "/sign-in") == csrf
    assert client.get("/jobs").url.path == "/jobs"


def test_a_sign_out_ends_it(place: Place) -> None:
    client = place.client("read")
    answer = client.post("/sign-out", data={"csrf": csrf_of(client, "/submit")})
    assert answer.url.path == "/sign-in"
    assert client.get("/jobs").url.path == "/sign-in"


def test_roles_are_the_gateways(place: Place) -> None:
    with Client(place.gateway, place.tokens["admin"]) as client:
        (place.folder / "captions.txt").write_text("a hat\n")
        client.create_job("hats", place.folder / "captions.txt", preset="flat")
    reader, submitter = place.client("read"), place.client("submit")
    assert reader.get("/jobs/hats").status_code == 200
    for verb in ("pause", "cancel", "retry", "delete"):
        sent = {"csrf": csrf_of(reader, "/jobs/hats"), "confirm": "hats"}
        answer = reader.post(f"/jobs/hats/{verb}", data=sent)
        assert answer.status_code == 403
        assert "needs the role" in answer.text
    answer = submitter.post("/jobs/hats/pause", data={"csrf": csrf_of(submitter, "/jobs/hats")})
    assert "paused" in answer.text
    sent = {"csrf": csrf_of(submitter, "/jobs/hats"), "confirm": "hats"}
    assert submitter.post("/jobs/hats/delete", data=sent).status_code == 403
    admin = place.client("admin")
    sent = {"csrf": csrf_of(admin, "/jobs/hats"), "confirm": "hat"}
    assert admin.post("/jobs/hats/delete", data=sent).status_code == 400
    assert admin.get("/jobs/hats").status_code == 200
    assert admin.post("/jobs/hats/delete", data={**sent, "confirm": "hats"}).url.path == "/jobs"
    assert admin.get("/jobs/hats").status_code == 404


def test_other_sites_and_old_pages_change_nothing(place: Place) -> None:
    client = place.client("admin")
    csrf = csrf_of(client, "/submit")
    foreign = [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.test"},
        {"origin": "null"},
    ]
    for path in (
        "/jobs",
        "/runs",
        "/submit/check",
        "/submit/preview",
        "/jobs/x/cancel",
        "/sign-out",
        "/sign-in",
    ):
        for headers in foreign:
            answer = client.post(path, data={"csrf": csrf}, headers=headers)
            assert answer.status_code == 403, (path, headers)
        if path != "/sign-in":
            for sent in ({}, {"csrf": "wrong"}, {"csrf": csrf_of(place.client("admin"), "/submit")}):
                assert client.post(path, data=sent).status_code == 403, (path, sent)
    assert client.get("/jobs/x/cancel").status_code == 405


def test_scripts_have_the_same_by_their_token(place: Place) -> None:
    headers = {"authorization": f"Bearer {place.tokens['read']}"}
    for path in PAGES:
        answer = httpx.get(f"{place.url}{path}.json", headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        twin = httpx.get(place.url + path, headers={**headers, "accept": "application/json"})
        assert twin.json().keys() == answer.json().keys()
    found = httpx.get(f"{place.url}/datasets/shoes.json", headers=headers).json()
    captions = [HOSTILE, "a red shoe", "a red bag", "a red hat"]
    assert [one["group"]["caption"] for one in found["groups"]] == captions
    assert found["groups"][0]["group"]["images"] == 2
    answer = httpx.post(
        f"{place.url}/jobs.json", headers=headers, data={"source": "store:x.txt", "name": "n"}
    )
    assert answer.status_code == 403
    bad = httpx.get(f"{place.url}/jobs.json", headers={"authorization": "Bearer nobody"})
    assert bad.status_code == 401


def test_a_name_that_ends_as_a_twin_has_a_page_and_a_twin(place: Place) -> None:
    (place.folder / "hats.txt").write_text("a hat\n")
    with Client(place.gateway, place.tokens["admin"]) as client:
        client.create_job("hats.json", place.folder / "hats.txt", preset="flat")
    browser = place.client("submit")
    assert 'href="/jobs/hats.json/"' in browser.get("/jobs").text
    page = browser.get("/jobs/hats.json/")
    assert "<h1>hats.json</h1>" in page.text
    assert browser.get("/jobs/hats.json.json").json()["job"]["dataset"] == "hats.json"
    sent = {"csrf": csrf_of(browser, "/jobs/hats.json/")}
    assert "<h1>hats.json</h1>" in browser.post("/jobs/hats.json/cancel", data=sent).text
    assert browser.get("/jobs/hats.json").status_code == 404


class Inline(HTMLParser):
    """What a page would run or style by itself, which its policy refuses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        names = dict(attributes)
        self.found += [name for name in names if name.startswith("on") or name == "style"]
        self.found += [value for value in names.values() if value and value.startswith("javascript:")]
        if tag == "style" or (tag == "script" and "src" not in names):
            self.found.append(tag)


def test_every_answer_is_guarded(place: Place) -> None:
    client = place.client("read")
    answers = [client.get(path) for path in (*PAGES, "/nowhere", "/datasets/none", "/static/style.css")]
    answers += [client.get("/datasets/shoes/captions/0"), client.get("/datasets/shoes/captions/0/0.jpg")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        if "html" in answer.headers["content-type"]:
            assert answer.headers["cache-control"] == "no-store"
            assert Inline(answer.text).found == []
    assert answers[-1].headers["content-type"] == "image/jpeg"
    assert client.get("/datasets/shoes/captions/0/7.jpg").status_code == 404
    assert client.get("/datasets/shoes/captions/9/0.jpg").status_code == 404


def test_hostile_texts_are_shown_as_texts(place: Place) -> None:
    client = place.client("admin")
    escaped = "&lt;script&gt;window.hacked=1&lt;/script&gt;"
    assert escaped in client.get("/datasets/shoes").text
    assert escaped in client.get("/datasets/shoes/captions/0").text
    assert escaped in client.get("/datasets/shoes/skipped").text
    assert "49" not in client.get("/datasets/shoes/skipped").text
    shown = client.get("/datasets/shoes")
    assert shown.text.count("read only the beginning; made in a smaller batch, of 4 images") == 1
    for caption_id in range(2, 5):
        answer = client.get(f"/datasets/shoes/captions/{caption_id}")
        assert answer.status_code == 200, answer.text
        assert HOSTILE not in answer.text
        twin = client.get(f"/datasets/shoes/captions/{caption_id}.json").json()
        assert len(twin["group"]["flags"]) == {2: 2, 3: 1, 4: 0}[caption_id]
    for path in ("/datasets/shoes", "/submit", "/train", "/compare"):
        answer = client.get(
            path, params={"q": HOSTILE, "beside": HOSTILE, "source": HOSTILE, "name": HOSTILE, "run": HOSTILE}
        )
        assert HOSTILE not in answer.text
        assert answer.status_code in (200, 400, 422)
    for path in (
        "/datasets/..%2f..",
        "/jobs/%2e%2e",
        "/runs/a%00b",
        "/figures/x%2fy",
        "/datasets/A",
    ):
        assert client.get(path).status_code in (400, 404), path


ODD_FILES = [
    b"",
    b"[]",
    b"null",
    b"{}",
    b"[" * 100_000,
    b"\xff",
    b'{"points": 5}',
    b'{"points": [{"scores": 3}]}',
]


def test_files_of_others_in_the_store_break_no_page(place: Place) -> None:
    """Whoever trains may write runs and sweeps: each answer says what is wrong, or shows it as text."""
    client, store = place.client("admin"), open_store((place.folder / "store").as_uri())
    info = json.loads(store.get(dataset_key("shoes")))
    for recipe in (
        {"model": HOSTILE},
        {"x": 1},
        {key: {"y": HOSTILE} for key in ("model", "steps", "sampler")},
    ):
        store.put(dataset_key("odd"), json.dumps({**info, "name": "odd", "recipe": recipe}).encode())
        commit_shard(store, "odd", 0, build_tar([Group(0, "a hat", (b"\xff\xd8",))]))
        for path in ("/datasets", "/datasets/odd", "/datasets/odd/captions/0", "/datasets/shoes?beside=odd"):
            answer = client.get(path)
            assert (answer.status_code, HOSTILE in answer.text) == (200, False), path
        sent = {"csrf": csrf_of(client, "/datasets/odd/captions/0")}
        answer = client.post("/datasets/odd/captions/0/remake", data=sent)
        assert answer.status_code == 502
        assert "recipe" in answer.text
    store.put(dataset_key("odd"), b"{")
    assert client.get("/datasets").status_code == 200
    for content in ODD_FILES:
        store.put(sweep_key("odd", "json"), content)
        store.put(sweep_key("odd", "svg"), content)
        store.put(map_key("odd", "odd", "json"), content)
        store.put(run_key("odd", "probes/odd.json"), content)
        for path in ("/sweeps", "/sweeps/odd", "/sweeps/odd.json", "/figures/odd", "/runs/odd/maps/odd"):
            assert client.get(path).status_code in (200, 404, 502), (path, content[:20])
        assert client.get("/compare?run=odd").status_code in (200, 404), content[:20]
    files = (
        "progress.json",
        "result.json",
        "job/create.json",
        "job/end.json",
        "job/status.json",
        "metrics.jsonl",
    )
    for content in [
        *ODD_FILES,
        b'{"method": "x", "datasets": 5}',
        b'{"datasets": [1], "method": {"name": []}}',
        b'{"step": 1, "loss": "x", "probes": {"digits": 5}}',
    ]:
        for name in ("config.json", *files):
            store.put(run_key("odd", "config.json"), b"{}")
            store.put(run_key("odd", name), content)
            for path in ("/runs", "/runs.json", "/compare?run=odd", "/datasets/shoes/captions/0"):
                answer = client.get(path)
                assert answer.status_code == 200 or path.startswith("/compare"), (path, name, content[:20])
                assert answer.status_code != 500, (path, name, content[:20])
            assert client.get("/runs/odd").status_code != 500, (name, content[:20])
            store.delete(run_key("odd", name))
    score = {
        "value": 0.99,
        "low": 0.96,
        "high": 1.02,
    }  # mean and spread over seeds: an end beyond 1 is no fault
    record = {
        "data": "d",
        "data_digest": "x",
        "protocol": "p",
        "settings": {},
        "time": "t",
        "scores": {"knn": score},
    }
    store.put(run_key("odd", "probes/fine.json"), json.dumps(record).encode())
    store.put(run_key("odd", "probes/none.json"), json.dumps(record).replace("0.99", "NaN").encode())
    store.put(run_key("odd", "config.json"), b"{}")
    assert [one["scores"]["knn"] for one in client.get("/compare.json?run=odd").json()["probes"]] == [score]
    assert "99.0" in client.get("/compare?run=odd").text
    photographs = {"points": [[0, 0], [1, 1]], "labels": [0, 0], "neighbours": [[1], [0]]}
    whole = {"data": HOSTILE, "classes": [HOSTILE], "side": 4, "columns": 2, **photographs}
    for changed, status in (
        ({}, 200),
        ({"labels": [0, 9]}, 502),
        ({"neighbours": [[1], [7]]}, 502),
        ({"neighbours": [[1]]}, 502),
        ({"points": [[0, 0], [float("nan"), 1]]}, 502),
        ({"side": 10**9}, 502),
    ):
        store.put(map_key("odd", "odd", "json"), json.dumps(whole | changed).encode())
        answer = client.get("/runs/odd/maps/odd?photograph=" + "9" * 30)
        assert (answer.status_code, HOSTILE in answer.text) == (status, False), changed
    store.put(map_key("odd", "odd", "json"), json.dumps(whole).encode())
    store.put(map_key("odd", "odd", "jpg"), b"<svg onload=alert(1)>")
    assert client.get("/runs/odd/maps/odd/1.png").status_code == 502


def test_a_file_with_a_hostile_name_is_refused_or_harmless(place: Place) -> None:
    client = place.client("submit")
    for name in ("../../evil.txt", "a\nb.txt", "<script>.txt", "x" * 300 + ".txt"):
        csrf = csrf_of(client, "/submit")
        answer = client.post("/submit/check", data={"csrf": csrf}, files={"file": (name, b"a red shoe\n")})
        assert answer.status_code in (200, 400)
        if answer.status_code == 200:
            assert answer.url.path == "/submit"
            assert "a red shoe" in answer.text
    assert not list(place.folder.rglob("evil.txt"))
    answer = client.post("/submit/check", data={"csrf": csrf}, files={"file": ("a.parquet", b"nothing")})
    assert answer.status_code == 422
    assert "parquet" in answer.text.lower()


def test_uploads_are_limited_in_size(place: Place) -> None:
    with console_served(place.folder, place.gateway, console={"upload_limit_bytes": 1000}) as url:
        client = httpx.Client(base_url=url, follow_redirects=True)
        sent = {"token": place.tokens["submit"], "csrf": csrf_of(client, "/sign-in")}
        client.post("/sign-in", data=sent)
        csrf = csrf_of(client, "/submit")
        large = {"file": ("large.txt", b"a red shoe\n" * 200_000)}
        answer = client.post("/submit/check", data={"csrf": csrf}, files=large)
        assert answer.status_code == 400
        assert "at most 1,000" in answer.text
        answer = client.post("/submit/check", content=iter([b"x"] * 10))
        assert "Content-Length" in answer.text


def test_uploads_are_limited_in_number(place: Place) -> None:
    client = place.client("admin")
    csrf = csrf_of(client, "/submit")
    answers = [client.post("/submit/check", data={"csrf": csrf, "source": "store:x"}) for _ in range(25)]
    assert answers[-1].status_code == 503
    assert "try again in" in answers[-1].text


def test_only_its_own_names_are_answered(place: Place) -> None:
    """A foreign name that leads to this address would let a foreign page read it (DNS rebinding)."""
    assert httpx.get(place.url + "/healthz", headers={"host": "evil.test"}).status_code == 400
    assert httpx.get(place.url + "/healthz", headers={"host": "console.test"}).status_code == 200


def test_dead_shards_are_shown_with_their_error_and_tried_again(place: Place) -> None:
    (place.folder / "many.txt").write_text("".join(f"caption {n}\n" for n in range(80)))
    with Client(place.gateway, place.tokens["admin"]) as client:
        client.create_job("dead", place.folder / "many.txt", preset="flat")
        while client.get_job("dead").state.value == "PLANNING":
            pass
    queue = Queue(place.redis_url, retry_seconds=0)
    while not queue.dead("dead"):
        lease = queue.lease("tester", 60)
        if lease is not None and lease.dataset == "dead" and lease.shard == 0:
            queue.fail(lease, f"out of memory {HOSTILE}")
    dead = queue.dead("dead")
    queue.close()
    assert len(dead) == 1
    client_ = place.client("submit")
    page = client_.get("/jobs/dead")
    assert "out of memory &lt;script&gt;" in page.text
    (number,) = dead
    assert f"Retry shard {number}" in page.text
    sent = {"csrf": csrf_of(client_, "/jobs/dead"), "shards": str(number)}
    assert client_.post("/jobs/dead/retry", data=sent).status_code == 200
    shown = client_.get("/jobs/dead.json").json()
    assert shown["job"]["counts"]["dead"] == 0
    assert client_.get("/jobs.json").json()["live"][0]["job"]["dataset"] == "dead"


def test_behind_a_prefix_everything_stays_below_it(place: Place, tmp_path: Path) -> None:
    more = {"prefix": "/rep", "anonymous": True}
    with console_served(place.folder, place.gateway, console=more) as url:
        client = httpx.Client(follow_redirects=True)
        sent = {"token": place.tokens["read"], "csrf": csrf_of(client, url + "/sign-in")}
        answer = client.post(url + "/sign-in", data=sent)
        assert answer.url.path == "/rep/jobs"
        addresses = re.findall(r'(?:href|src|action|sse-connect)="(/[^"]*)"', answer.text)
        assert len(addresses) > 10
        assert [one for one in addresses if not one.startswith("/rep/")] == []
        for one in addresses:
            if "events" not in one and "sign-out" not in one:
                assert client.get(url.removesuffix("/rep") + one).status_code == 200, one


def test_in_a_browser_one_signs_in_is_refused_by_role_and_retries_a_dead_shard(place: Place) -> None:
    with Client(place.gateway, place.tokens["admin"]) as client:
        (place.folder / "few.txt").write_text("a <b>hat</b>\n")
        client.create_job("stuck", place.folder / "few.txt", preset="flat", priority=9)
        while client.get_job("stuck").state.value == "PLANNING":
            pass
    queue = Queue(place.redis_url, retry_seconds=0)
    while not queue.dead("stuck"):
        lease = queue.lease("tester", 60)
        if lease is not None and lease.dataset == "stuck":
            queue.fail(lease, f"out of memory {HOSTILE}")
    queue.close()
    with chromium() as browser, watched(browser) as page:
        page.goto(f"{place.url}/jobs/stuck")
        page.get_by_label("Token").fill(place.tokens["read"])
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/jobs/stuck")
        expect(page.locator("td.text").first).to_contain_text("<script>window.hacked=1</script>")
        page.get_by_role("button", name="Retry shard 0").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Not allowed")
        expect(page.get_by_text("needs the role submit, and read has read")).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("Token").fill(place.tokens["submit"])
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/jobs")
        page.goto(f"{place.url}/jobs/stuck")
        page.get_by_role("button", name="Retry shard 0").click()
        expect(page.get_by_text("0 of 1 done, 0 leased, 1 waiting, 0 dead")).to_be_visible()
        page.goto(f"{place.url}/datasets/shoes/skipped")
        page.goto(f"{place.url}/datasets/shoes")
        assert page.evaluate("window.hacked") is None


def test_runs_beyond_the_first_page_are_on_the_next(place: Place) -> None:
    store = open_store((place.folder / "store").as_uri())
    names = [f"many-{number:03}" for number in range(LISTED + 1)]
    store.put_many((run_key(name, "config.json"), b"{}") for name in names)
    shown, address = [], "/runs.json"
    client = place.client("read")
    while address:
        found = client.get(address).json()
        assert len(found["runs"]) <= LISTED
        shown += [run["run"] for run in found["runs"]]
        address = found["more"] and f"/runs.json?page={found['more']}"
    assert len(shown) == len(set(shown)) > LISTED
    assert set(names) <= set(shown)
    page = client.get("/runs")
    (link,) = re.findall('<a href="([^"]*)" rel="next">', page.text)
    page = client.get(html.unescape(link))
    assert "The first runs by name" in page.text
    assert names[-1] in page.text
    for name in names:
        store.delete(run_key(name, "config.json"))
