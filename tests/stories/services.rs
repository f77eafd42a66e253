//! Programs that people run, from Debian's packages, by way of a registry.

use std::io::BufRead;

use rustix::process::{Signal, kill_process};
use tests::{House, Outcome, services_store};

crate::stories![
    redis_answers_its_benchmark,
    nginx_serves,
    python_passes_tests_of_its_own,
    node_compiles_and_serves_itself,
    what_postgres_has_committed_to_a_disk_outlives_its_vm,
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
    serve(&house, &["nginx"]);
    let ask = "curl --silent --retry 100 --retry-connrefused --retry-delay 1 http://127.0.0.1/";
    let page = beside(&house, ask).expect_code(0).text();
    assert!(page.contains("Welcome to nginx"), "{page}");
    // As an engine stops it: it ends by itself, with the code of one that was asked to.
    call(&house, &["stop", "it"]).expect_code(0);
    assert_eq!(call(&house, &["wait", "it"]).expect_code(0).text(), "0\n");
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

/// As its user: has a database in the directory `$0`, and serves it.
const POSTGRES: &str = "cd \"$0\" && { [ -s PG_VERSION ] || \
    { initdb --auth trust --no-instructions /tmp/new && cp -a /tmp/new/. . && sync && rm -r /tmp/new; }; } && \
    exec postgres -D . -k /tmp -c listen_addresses=";

/// Says how much it sees of what it has written, and does not commit.
const OPEN_TRANSACTION: &str = "begin; insert into kept select n, '' from generate_series(3001, 3500) n; \
    select count(*) from kept; select pg_sleep(1000); commit";

/// What is in the table, in a line.
const SUM: &str = "select count(*), sum(n), md5(string_agg(word, ',' order by n)) from kept";

fn psql(house: &House, sql: &str) -> std::process::Command {
    let words = ["exec", "it", "psql", "-h", "/tmp", "-qtA", "-v", "ON_ERROR_STOP=1", "-c", sql];
    house.command_with_store(services_store(), words)
}

fn ask(house: &House, sql: &str) -> String {
    Outcome::of(&mut psql(house, sql)).expect_code(0).text()
}

fn wait_for_postgres(house: &House) {
    beside(house, "until pg_isready -h /tmp; do sleep 0.5; done").expect_code(0);
}

/// Fills a table, kills the VM in the middle of a transaction, has it served `again` and looks at it.
fn postgres_outlives_its_vm(house: &House, again: impl Fn()) {
    wait_for_postgres(house);
    ask(house, "create table kept (n int primary key, word text)");
    ask(
        house,
        "insert into kept select n, repeat('word', n % 100) from generate_series(1, 2000) n",
    );
    let before = ask(house, SUM);
    assert!(before.starts_with("2000|2001000|"), "{before}");
    let mut under_way = psql(house, OPEN_TRANSACTION);
    let mut under_way = under_way.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(under_way.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "2500\n");
    kill_process(house.process("vmm"), Signal::KILL).unwrap();
    assert_ne!(under_way.wait().unwrap().code(), Some(0));
    call(house, &["wait", "it"]).expect_code(0);
    again();
    wait_for_postgres(house);
    assert_eq!(ask(house, SUM), before);
    ask(house, "insert into kept values (0, 'more')");
    remove(house);
}

fn what_postgres_has_committed_to_a_disk_outlives_its_vm() {
    let house = House::new();
    let script = format!("install -d -m 700 /var/lib/postgresql/base && {POSTGRES}");
    let disk = ["--memory", "512m", "--storage", "size=1g"];
    let words = ["postgres", "sh", "-c", &script, "/var/lib/postgresql/base"];
    serve(&house, &[&disk[..], &words].concat());
    postgres_outlives_its_vm(&house, || drop(call(&house, &["start", "it"]).expect_code(0)));
}
