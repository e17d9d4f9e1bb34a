from projects import client_of, write_run
from test_studio_home import ENDED, RESULTS, TRAINED


def test_the_verdict_is_on_the_page_in_words_and_the_report_in_a_frame_of_its_own(tmp_path):
    run = write_run(tmp_path, "a", ENDED, TRAINED, RESULTS)
    client = client_of(tmp_path)
    assert "Tuned is better" in client.get("/evaluation/a").text
    assert "<iframe" not in client.get("/evaluation/a").text
    (run / "evaluation" / "report.html").write_text("<script>parent.document</script>")
    page = client.get("/evaluation/a").text
    assert 'src="/report/a"' in page
    assert "Tuned is better" not in page  # the report begins with it: not twice on one screen
    assert "allow-same-origin" not in page
    policy = client.get("/report/a").headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts allow-popups; default-src 'none';")
    assert "frame-ancestors 'self'" in policy


def test_before_it_was_measured_the_page_says_what_will_stand_there(tmp_path):
    write_run(tmp_path, "a")
    client = client_of(tmp_path, **{"accept-language": "zh"})
    assert "还没有评估" in client.get("/evaluation/a").text
    assert "has no report yet" in client.get("/report/a").text


def test_results_of_another_version_break_nothing(tmp_path):
    for number, results in enumerate(([1], {}, [{"model": "base"}, {"model": "tuned", "tasks": {"x": 3}}], None)):
        write_run(tmp_path, str(number), ENDED, TRAINED, results or [])
        assert client_of(tmp_path).get(f"/evaluation/{number}").status_code == 200
