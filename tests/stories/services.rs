//! Programs that people run, from Debian's packages, by way of a registry.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::{Signal, kill_process};
use tests::{Beside, House, Outcome, services_store};

crate::stories![
    redis_answers_its_benchmark,
    nginx_serves,
    iperf3_measures_both_ways,
    apt_get_installs_by_way_of_a_proxy,
    python_passes_tests_of_its_own,
    node_compiles_and_serves_itself,
    postgres_keeps_what_was_committed_when_its_vm_is_killed,
];

/// `microvm ARGS…` with the store of the services.
fn call(house: &House, args: &[&str]) -> Outcome {
    Outcome::of(&mut house.command_with_store(services_store(), args))
}

/// A service in the background that goes on until it is taken away.
fn serve(house: &House, args: &[&str]) {
    let args: Vec<_> = ["run", "--detach", "--name", "it"].iter().chain(args).copied().collect();
    call(house, &args).expect_code(0);
}

/// The shell's script beside the service.
fn beside(house: &House, script: &str) -> Outcome {
    call(house, &["exec", "it", "sh", "-c", script])
}

fn remove(house: &House) {
    call(house, &["rm", "--force", "it"]).expect_code(0);
    house.expect_nothing_left();
}

fn redis_answers_its_benchmark() {
    let house = House::new();
    serve(&house, &["redis"]);
    beside(&house, "until redis-cli ping; do sleep 0.2; done").expect_code(0);
    let figures = beside(&house, "redis-benchmark --csv -n 1000 -c 10 -t set,get,lpush,lrange_100");
    let figures = figures.expect_code(0).text();
    for test in ["SET", "GET", "LPUSH", "LRANGE_100 (first 100 elements)"] {
        let line = figures.lines().find(|line| line.starts_with(&format!("\"{test}\"")));
        let line = line.unwrap_or_else(|| panic!("no {test}: {figures}"));
        let per_second: f64 = line.split(',').nth(1).unwrap().trim_matches('"').parse().unwrap();
        assert!(per_second > 0.0, "{line}");
    }
    assert_eq!(beside(&house, "redis-cli llen mylist").expect_code(0).text(), "2000\n");
    remove(&house);
}

fn nginx_serves() {
    let house = House::new();
    serve(&house, &["--network", "default", "-p", "127.0.0.1:18099:80", "nginx"]);
    let ask = "curl --silent --retry 100 --retry-connrefused --retry-delay 1 http://127.0.0.1/";
    let page = beside(&house, ask).expect_code(0).text();
    assert!(page.contains("Welcome to nginx"), "{page}");
    assert_eq!(crate::networks::page("127.0.0.1:18099"), page, "as the host sees it");
    // As an engine stops it: it ends by itself, with the code of one that was asked to.
    call(&house, &["stop", "it"]).expect_code(0);
    assert_eq!(call(&house, &["wait", "it"]).expect_code(0).text(), "0\n");
    remove(&house);
}

fn iperf3_measures_both_ways() {
    let house = House::new();
    serve(&house, &["--network", "default", "nginx", "iperf3", "--server", "--forceflush"]);
    while !call(&house, &["logs", "it"]).text().contains("Server listening") {
        std::thread::yield_now();
    }
    for way in
        [&["--bytes", "8M"][..], &["--bytes", "8M", "--reverse"], &["--udp", "--bytes", "1M"]]
    {
        let mut client = Command::new("iperf3");
        client.args(["--json", "--client", "10.190.0.2"]).args(way);
        let said = Outcome::of(&mut client).expect_code(0).text();
        let figures: serde_json::Value = serde_json::from_str(&said).unwrap();
        let end = &figures["end"];
        let received = end["sum_received"].get("bytes").or(end["sum"].get("bytes"));
        assert!(received.and_then(|it| it.as_u64()).unwrap() >= 1 << 20, "{way:?}: {said}");
    }
    remove(&house);
}

/// A place for apt-get to install from, with one package in it.
fn repository(place: &Path) {
    let package = place.join("package");
    fs::create_dir_all(package.join("DEBIAN")).unwrap();
    fs::create_dir_all(package.join("usr/share/story")).unwrap();
    fs::write(package.join("usr/share/story/word"), "it came through\n").unwrap();
    let control = "Package: story\nVersion: 1\nArchitecture: all\nMaintainer: nobody\n\
                   Description: a word\n";
    fs::write(package.join("DEBIAN/control"), control).unwrap();
    let say = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        Outcome::of(command.args(&words[1..]).current_dir(place)).expect_code(0).text()
    };
    say(&["dpkg-deb", "--root-owner-group", "--build", "package", "story.deb"]);
    let sum = say(&["sha256sum", "story.deb"]);
    let (sum, _) = sum.split_once(' ').unwrap();
    let bytes = fs::metadata(place.join("story.deb")).unwrap().len();
    let about = format!("{control}Filename: ./story.deb\nSize: {bytes}\nSHA256: {sum}\n");
    fs::write(place.join("Packages"), about).unwrap();
}

fn apt_get_installs_by_way_of_a_proxy() {
    let place = tempfile::tempdir().unwrap();
    let house = House::new();
    serve(&house, &["--network", "default", "nginx", "sleep", "1000"]);
    // What is served on the host's loopback a guest reaches by the proxy alone.
    let (served, proxied) = ("127.0.0.1:18120", "10.190.0.1:18121");
    repository(place.path());
    let mut server = Command::new("busybox");
    server.args(["httpd", "-f", "-p", served, "-h"]).arg(place.path());
    let _server = Beside::start(&mut server, served);
    let settings = place.path().join("tinyproxy.conf");
    let words = "Port 18121\nListen 10.190.0.1\nAllow 10.190.0.0/24\nTimeout 600\n";
    fs::write(&settings, words).unwrap();
    let mut proxy = Command::new("tinyproxy");
    let _proxy = Beside::start(proxy.args(["-d", "-c"]).arg(&settings), proxied);

    let source = format!(
        "rm -f /etc/apt/sources.list.d/*; echo 'deb [trusted=yes] http://{served}/ ./' \
         > /etc/apt/sources.list; "
    );
    let direct = format!("{source} apt-get -o Acquire::Retries=0 --error-on=any update");
    let refused = beside(&house, &direct).expect_code(100);
    assert!(refused.stderr.contains("Connection refused"), "{}", refused.stderr);
    let apt_get = format!("apt-get -o Acquire::http::Proxy=http://{proxied} --quiet --yes");
    let install =
        format!("{apt_get} update && {apt_get} install story && cat /usr/share/story/word");
    let said = beside(&house, &install).expect_code(0).text();
    assert!(said.ends_with("it came through\n"), "{said}");
    remove(&house);
}

fn python_passes_tests_of_its_own() {
    let house = House::new();
    let tests = ["test_struct", "test_json", "test_tempfile", "test_glob", "test_shutil"];
    // One of the tests wants a file system on which something is in use: a disk, and not memory.
    let run = ["run", "--rm", "--storage", "size=256m"];
    let run = run.into_iter().chain(["python", "python3", "-m", "test", "--timeout", "500"]);
    let args: Vec<_> = run.chain(tests).collect();
    let said = call(&house, &args).expect_code(0).text();
    assert!(said.contains("Result: SUCCESS"), "{said}");
    house.expect_nothing_left();
}

fn node_compiles_and_serves_itself() {
    let house = House::new();
    let script = "const http = require('http');
        const server = http.createServer((_, answer) => answer.end('served')).listen(0, '127.0.0.1', () =>
            http.get({ host: '127.0.0.1', port: server.address().port }, answer => {
                answer.on('data', data => console.log(String(data)));
                answer.on('end', () => server.close());
            }));";
    let said = call(&house, &["run", "--rm", "node", "node", "-e", script]).expect_code(0);
    assert_eq!(said.text(), "served\n");
    house.expect_nothing_left();
}

fn postgres_keeps_what_was_committed_when_its_vm_is_killed() {
    // The first time it makes its database, which is on the disk before it is used.
    const SERVE: &str = "cd /var/lib/postgresql && { [ -f data/PG_VERSION ] || \
        { initdb --no-locale --no-sync --auth=trust data && \
          echo host all all all trust >> data/pg_hba.conf && sync; }; } && \
        exec postgres -D data -k /tmp -c listen_addresses='*' -c shared_buffers=16MB";
    const SUM: &str =
        "select count(*), sum(number), md5(string_agg(word, '' order by number)) from kept";
    let house = House::new();
    let ask = |sql: &str| {
        let psql = ["exec", "it", "psql", "-h", "/tmp", "-v", "ON_ERROR_STOP=1", "-Atc", sql];
        call(&house, &psql).expect_code(0).text()
    };
    let is_ready = || beside(&house, "until pg_isready -h /tmp; do sleep 0.5; done").expect_code(0);
    let network = ["--network", "default"];
    serve(
        &house,
        &[&network, &["--storage", "size=1g", "postgres", "sh", "-c", SERVE][..]].concat(),
    );
    is_ready();
    ask(
        "create table kept as select number, md5(number::text) as word from generate_series(1, 5000) number",
    );
    ask("insert into kept values (6000, 'the last')");
    let whole = ask(SUM);
    // A transaction that does not come to its end.
    let lost = "insert into kept select number, 'lost' from generate_series(7000, 7999) number; \
                select pg_sleep(10000)";
    call(&house, &["exec", "--detach", "it", "psql", "-h", "/tmp", "-c", lost]).expect_code(0);
    let sleeps = "until psql -h /tmp -Atc 'select wait_event from pg_stat_activity' | grep PgSleep; do \
                  sleep 0.2; done";
    beside(&house, sleeps).expect_code(0);

    kill_process(house.process("microvm vmm"), Signal::KILL).unwrap();
    call(&house, &["wait", "it"]).expect_code(0);
    call(&house, &["start", "it"]).expect_code(0);
    is_ready();
    assert_eq!(ask(SUM), whole);
    assert!(whole.starts_with("5001|"), "{whole}");
    // And by its name to somebody else.
    let visit =
        ["run", "--rm", "--network", "default", "postgres", "psql", "-h", "it", "-Atc", SUM];
    assert_eq!(call(&house, &visit).expect_code(0).text(), whole);
    remove(&house);
}
