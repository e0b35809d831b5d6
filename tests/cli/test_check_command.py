"""``prototxt-gen check --paper``: exit codes, both numbers of a deviation, machine-readable rows."""

import json


def test_the_four_networks_by_name_and_by_file(cli, tmp_path):
    net = tmp_path / "net.prototxt"
    cli("attention92", "--published", "-o", str(net))
    done = cli("check", "attention56", "attentionnext56", "attentionnext92", str(net), "--paper")
    assert done.returncode == 0, done.stdout
    assert "51.3 M" in done.stdout and "52.60 M (52599976)" in done.stdout
    assert done.stdout.count("agrees with the paper and the published file") == 4
    assert "deviates (published file)" in done.stdout and "FAIL" not in done.stdout


def test_a_broken_net_fails_and_says_where(cli, tmp_path):
    net = tmp_path / "net.prototxt"
    cli("attention56", "--set", "modules=1,2,1", "-o", str(net))
    done = cli("check", str(net), "--paper")
    assert done.returncode == 1
    assert any("attention modules B" in line and "2, expected 1" in line and line.endswith("FAIL")
               for line in done.stdout.splitlines())
    rows = json.loads(cli("check", str(net), "--paper", "--json").stdout)[str(net)]
    assert {row["verdict"] for row in rows} == {"ok", "FAIL"}


def test_mistakes(cli, tmp_path):
    net = tmp_path / "net.prototxt"
    cli("attention56", "--name", "mine", "-o", str(net))
    unnamed = cli("check", str(net), "--paper")
    assert unnamed.returncode == 2 and "say which it means to be: --as attention56|" in unnamed.stderr
    assert cli("check", str(net), "--paper", "--as", "attention56").returncode == 0
    assert cli("check", str(net)).returncode == 2
    assert cli("check", "--paper").returncode == 2
