//! Programs that people run, from Debian's packages, by way of a registry.

use std::io::BufRead;

use rustix::process::{Signal, kill_process};
use tests::{House, Outcome, services};

crate::stories![
    redis_answers_its_benchmark,
    nginx_serves,
    python_passes_tests_of_its_own,
    node_compiles_and_serves_itself,
    what_postgres_has_committed_outlives_its_vm,
];

/// `microvm ARGS…` with the store of the services.
fn call(house: &House, args: &[&str]) -> Outcome {
    Outcome::of(&mut house.command_with_store(&services().unwrap(), args))
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
    assert_eq!(beside(&house, "redis-cli llen mylist").expect_code(0).text(), "1000\n");
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
    let run = ["run", "--rm", "python", "python3", "-m", "test", "--timeout", "500"];
    let args: Vec<_> = run.into_iter().chain(tests).collect();
    let said = call(&house, &args).expect_code(0).text();
    assert!(said.contains("Result: SUCCESS"), "{said}");
    house.expect_nothing_left();
}

fn node_compiles_and_serves_itself() {
    let house = House::new();
    let script = "const http = require('http');
        const server = http.createServer((_, answer) => answer.end('served')).listen(0, '127.0.0.1', () =>
            http.get({ port: server.address().port }, answer => {
                answer.on('data', data => console.log(String(data)));
                answer.on('end', () => server.close());
            }));";
    let said = call(&house, &["run", "--rm", "node", "node", "-e", script]).expect_code(0);
    assert_eq!(said.text(), "served\n");
    house.expect_nothing_left();
}

fn what_postgres_has_committed_outlives_its_vm() {
    let house = House::new();
    let host = tempfile::Builder::new().prefix("story-postgres-").tempdir().unwrap();
    let volume = format!("{}:/data", host.path().display());
    // A directory of root's, in which the image's own user gets one.
    let own = "install -d -o postgres -g postgres -m 700 /data/base";
    let user = ["run", "--rm", "--user", "root", "-v", &volume, "postgres", "sh", "-c", own];
    call(&house, &user).expect_code(0);
    let go = "cd /data/base && { [ -s PG_VERSION ] || initdb --auth trust --no-instructions .; } && \
              exec postgres -D . -k /tmp -c listen_addresses=";
    let ask = |sql: &str| {
        let psql = ["exec", "it", "psql", "-h", "/tmp", "-qtA", "-v", "ON_ERROR_STOP=1", "-c", sql];
        call(&house, &psql).expect_code(0).text()
    };
    let serve = || {
        serve(&house, &["--memory", "512m", "-v", &volume, "postgres", "sh", "-c", go]);
        beside(&house, "until pg_isready -h /tmp; do sleep 0.5; done").expect_code(0);
    };
    serve();
    ask("create table kept (n int primary key, word text)");
    ask("insert into kept select n, repeat('word', n % 100) from generate_series(1, 2000) n");
    let sum = "select count(*), sum(n), md5(string_agg(word, ',' order by n)) from kept";
    let before = ask(sum);
    assert!(before.starts_with("2000|2001000|"), "{before}");
    // Under way when the VM dies, and so not to be seen again.
    let mut under_way = house.command_with_store(
        &services().unwrap(),
        ["exec", "it", "psql", "-h", "/tmp", "-qtA", "-c", OPEN_TRANSACTION],
    );
    let mut under_way = under_way.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(under_way.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "2500\n");
    kill_process(house.process("vmm"), Signal::KILL).unwrap();
    assert_ne!(under_way.wait().unwrap().code(), Some(0));
    call(&house, &["rm", "--force", "it"]).expect_code(0);

    serve();
    assert_eq!(ask(sum), before);
    ask("insert into kept values (0, 'more')");
    remove(&house);
}

/// Says how much it sees of what it has written, and does not commit.
const OPEN_TRANSACTION: &str = "begin; insert into kept select n, '' from generate_series(3001, 3500) n; \
    select count(*) from kept; select pg_sleep(1000); commit";
