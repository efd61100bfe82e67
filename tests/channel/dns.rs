//! `dns:` targets, against a name server whose answers change.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hickory_server::proto::rr::RecordType;
use switchboard::{
    ActorKind, ActorReport, BackoffConfig, Channel, ChannelBuilder, Code, ConnectivityState, Dns,
};
use tokio::net::UdpSocket;

use crate::support::greeter::{Greeter, SAY_HELLO, ask};
use crate::support::name_server::{Answer, NameServer};
use crate::support::{Load, ROUND_ROBIN, plaintext, reports, until, until_connected, until_state};

const NAME: &str = "greeter.example.";

/// Some greeters on one port of 127.0.0.1, 127.0.0.2 and so on: a name has no more than one port.
fn greeters<const N: usize>() -> [Greeter; N] {
    loop {
        let first = Greeter::start();
        let port = first.address().port();
        let others = (2..=N).map(|last| {
            let last = u8::try_from(last).unwrap();
            Greeter::start_at(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port)))
        });
        let all: Option<Vec<_>> = std::iter::once(Some(first)).chain(others).collect();
        // One of the ports may be taken; then others will do.
        if let Some(Ok(all)) = all.map(<[Greeter; N]>::try_from) {
            return all;
        }
    }
}

fn ips(greeters: &[&Greeter]) -> Vec<IpAddr> {
    greeters.iter().map(|greeter| greeter.address().ip()).collect()
}

/// A file that is there until it is dropped.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: impl AsRef<[u8]>) -> Self {
        let path = std::env::temp_dir().join(format!("switchboard-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // The system cleans up where this fails.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A line of `resolv.conf`.
fn nameserver(address: SocketAddr) -> String {
    format!("nameserver [{}]:{}\n", address.ip(), address.port())
}

/// A channel that asks `names` for `target`, which begins with the name, and soon again.
fn to(names: &NameServer, target: impl std::fmt::Display) -> ChannelBuilder {
    let wait = Duration::from_millis(20);
    let backoff = BackoffConfig { base_delay: wait, max_delay: wait, ..BackoffConfig::default() };
    plaintext(format!("dns://{}/{target}", names.address()))
        .resolver("dns", Dns::new().min_interval(Duration::from_millis(100)))
        .backoff(backoff)
}

async fn resolver_report(channel: &Channel) -> ActorReport {
    let mut reports = reports(channel).await.into_iter();
    reports.find(|report| report.actor == ActorKind::Resolver).unwrap()
}

#[tokio::test]
async fn a_server_that_goes_and_one_that_comes_cost_no_call() {
    let names = NameServer::start().await;
    let [one, mut two, three, four] = greeters();
    let port = one.address().port();
    names.set(NAME, Answer::Addresses(ips(&[&one, &two, &three])));
    let channel =
        to(&names, format!("{NAME}:{port}")).default_service_config(ROUND_ROBIN).build().unwrap();
    let load = Load::start(&channel, true);
    load.more_calls(1_000).await;
    assert!([&one, &two, &three].iter().all(|greeter| greeter.received() > 100));
    // One server ends; calls go on on the others, and its name is asked for again.
    let asked = names.questions().len();
    two.stop_gracefully().await;
    load.more_calls(1_000).await;
    until("the name is asked for again", async || names.questions().len() > asked).await;
    // Its record goes and a new one comes: nobody has to ask for the resolution that finds it.
    names.set(NAME, Answer::Addresses(ips(&[&one, &three, &four])));
    until("the new server is called", async || four.received() > 0).await;
    let four = [four];
    until_connected(&channel, &four).await;
    let before = (one.received(), three.received(), four[0].received());
    load.more_calls(3_000).await;
    for (greeter, before) in [(&one, before.0), (&three, before.1), (&four[0], before.2)] {
        let share = greeter.received() - before;
        assert!((900..1_200).contains(&share), "{share} of 3,000 calls");
    }
    let failures = load.stop().await;
    assert!(failures.is_empty(), "{}: {}", failures.len(), failures[0]);
    channel.close().await;
}

#[tokio::test]
async fn a_name_that_does_not_exist_fails_calls_until_it_does() {
    let names = NameServer::start().await;
    let greeter = Greeter::start();
    let channel = to(&names, format!("{NAME}:{}", greeter.address().port())).build().unwrap();
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::UNAVAILABLE);
    let expected = format!("DNS lookup of `{NAME}` at {}: there is no such name", names.address());
    assert!(status.message().contains(&expected), "{status}");
    assert!(status.cause().is_some());
    let waiting = tokio::spawn({
        let channel = channel.clone();
        async move { channel.invoke(&SAY_HELLO, ask("Ada").wait_for_ready(true)).await }
    });
    names.set(NAME, Answer::Addresses(ips(&[&greeter])));
    waiting.await.unwrap().unwrap();
    // And when it has gone again, the servers that were found serve on.
    names.remove(NAME);
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    channel.close().await;
}

#[tokio::test]
async fn a_failing_name_server_and_a_name_without_addresses_are_told_apart() {
    let names = NameServer::start().await;
    let rows =
        [(Answer::Failure, "server failure"), (Answer::Addresses(Vec::new()), "has no addresses")];
    for (answer, part) in rows {
        names.set(NAME, answer);
        let channel = to(&names, format!("{NAME}:80")).build().unwrap();
        let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
        assert_eq!(status.code(), Code::UNAVAILABLE);
        assert!(status.message().contains(NAME), "{status}");
        assert!(status.message().to_lowercase().contains(part), "{status}");
        channel.close().await;
    }
}

#[tokio::test]
async fn an_answer_that_udp_cuts_short_is_fetched_over_tcp() {
    let names = NameServer::start().await;
    let greeter = Greeter::start();
    let many = (1..=200).map(|last| IpAddr::from([127, 0, 0, last])).collect();
    names.set(NAME, Answer::Addresses(many));
    let channel = to(&names, format!("{NAME}:{}", greeter.address().port())).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert_eq!(resolver_report(&channel).await.facts["endpoints"], "200");
    assert!(names.questions().iter().any(|question| question.over_tcp));
    channel.close().await;
}

#[tokio::test]
async fn a_dead_name_server_does_not_stop_the_next() {
    let (names, silent) = (NameServer::start().await, NameServer::start().await);
    let greeter = Greeter::start();
    silent.set(NAME, Answer::Silence);
    names.set(NAME, Answer::Addresses(ips(&[&greeter])));
    // Nobody listens here.
    let closed = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    for dead in [silent.address(), closed] {
        let dns = Dns::new()
            .name_servers([dead, names.address()])
            .query_timeout(Duration::from_millis(200));
        let target = format!("dns:{NAME}:{}", greeter.address().port());
        let channel = plaintext(target).resolver("dns", dns).build().unwrap();
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        channel.close().await;
    }
}

#[tokio::test]
async fn a_slow_name_server_is_waited_for_and_a_silent_one_is_named() {
    let names = NameServer::start().await;
    let greeter = Greeter::start();
    let wait = Duration::from_millis(300);
    names.set(NAME, Answer::Late(ips(&[&greeter]), wait));
    let target = format!("dns://{}/{NAME}:{}", names.address(), greeter.address().port());
    let channel = plaintext(&target).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    channel.close().await;
    names.set(NAME, Answer::Silence);
    let dns = Dns::new().query_timeout(Duration::from_millis(50));
    let channel = plaintext(target).resolver("dns", dns).build().unwrap();
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::UNAVAILABLE);
    let expected = format!("DNS lookup of `{NAME}` at {}: ", names.address());
    assert!(status.message().contains(&expected), "{status}");
    assert!(status.message().contains("timed out"), "{status}");
    channel.close().await;
}

#[tokio::test]
async fn a_short_name_is_looked_for_in_the_search_domains() {
    let names = NameServer::start().await;
    let greeter = Greeter::start();
    names.set("the_greeter.prod.example.", Answer::Addresses(ips(&[&greeter])));
    let dns = Dns::new().search_domains(["test.example", "prod.example"]);
    let target = format!("dns://{}/the_greeter:{}", names.address(), greeter.address().port());
    let channel = plaintext(target).resolver("dns", dns).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let asked = names.questions();
    assert!(asked.iter().any(|question| question.name == "the_greeter.test.example."), "{asked:?}");
    channel.close().await;
}

#[tokio::test]
async fn the_hosts_file_comes_before_the_name_servers() {
    let names = NameServer::start().await;
    let greeter = Greeter::start();
    let hosts = std::env::temp_dir().join(format!("switchboard-hosts-{}", std::process::id()));
    std::fs::write(&hosts, "127.0.0.1 greeter.internal\n").unwrap();
    let target = format!("dns://{}/greeter.internal:{}", names.address(), greeter.address().port());
    let builder = plaintext(target).resolver("dns", Dns::new().hosts_file(&hosts));
    let channel = builder.build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    channel.close().await;
    std::fs::remove_file(&hosts).unwrap();
    assert_eq!(names.questions(), []);
    let channel = builder.build().unwrap();
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    let expected = format!("the hosts file {}: no such file", hosts.display());
    assert!(status.message().contains(&expected), "{status}");
    channel.close().await;
}

// spec: A10/localhost-and-literals
#[tokio::test]
async fn neither_localhost_nor_an_address_is_asked_for() {
    let names = NameServer::start().await;
    let greeter = Greeter::start();
    for host in ["localhost", "127.0.0.1"] {
        let target = format!("dns://{}/{host}:{}", names.address(), greeter.address().port());
        let channel = plaintext(target).build().unwrap();
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        channel.close().await;
    }
    assert_eq!(names.questions(), []);
}

#[tokio::test]
async fn an_inspection_tells_how_long_the_addresses_are_good_for() {
    let names = NameServer::start().await;
    let greeter = Greeter::start();
    names.set(NAME, Answer::Lasting(ips(&[&greeter]), 3_600));
    let channel = to(&names, format!("{NAME}:{}", greeter.address().port())).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let facts = resolver_report(&channel).await.facts;
    assert_eq!(facts["endpoints"], "1");
    assert!(facts["time to live"].starts_with("3600s, 3"), "{facts:?}");
    assert!(channel.inspect().await.to_string().contains("endpoints 1, found "));
    assert_eq!(channel.state(), ConnectivityState::Ready);
    channel.close().await;
}

/// Lets time pass for the channels of this runtime, which must have one thread only.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_headless_service_of_a_cluster_that_grows_and_shrinks_fails_no_call() {
    let names = NameServer::start().await;
    let service = "greeter.prod.svc.cluster.local.";
    let all: [Greeter; 4] = greeters();
    let port = all[0].address().port();
    names.set(service, Answer::Lasting(ips(&[&all[0], &all[1]]), 5));
    let domains = "search prod.svc.cluster.local svc.cluster.local cluster.local\n";
    let text = format!("{}{domains}options ndots:5\n", nameserver(names.address()));
    let conf = File::new("cluster", text);
    let channel = plaintext(format!("dns:///greeter:{port}"))
        .resolver("dns", Dns::new().resolv_conf(&conf.0))
        .default_service_config(ROUND_ROBIN)
        .build()
        .unwrap();
    let call = async || channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    call().await;
    assert!(names.questions().iter().all(|question| question.name == service));
    // The records live for five seconds, and nobody is asked again within thirty.
    let asked = names.questions().len();
    pass(Duration::from_secs(29)).await;
    call().await;
    assert_eq!(names.questions().len(), asked);
    // Growth is seen after thirty seconds and a tenth, without any trouble.
    names.set(service, Answer::Lasting(ips(&[&all[0], &all[1], &all[2], &all[3]]), 5));
    pass(Duration::from_secs(4)).await;
    until("the new servers are called", async || {
        call().await;
        all[2].received() > 0 && all[3].received() > 0
    })
    .await;
    // One that has left its name gets no more calls, though it runs on.
    names.set(service, Answer::Lasting(ips(&[&all[1], &all[2], &all[3]]), 5));
    pass(Duration::from_secs(33)).await;
    until("the server that left is let go", async || {
        call().await;
        all[0].connections() == 0
    })
    .await;
    // A look-up that fails, or finds none, keeps those that are known.
    for nothing in [Answer::Failure, Answer::Addresses(Vec::new())] {
        let asked = names.questions().len();
        names.set(service, nothing);
        pass(Duration::from_secs(33)).await;
        until("the name is asked for", async || {
            call().await;
            names.questions().len() > asked
        })
        .await;
        for _ in 0..10 {
            call().await;
        }
        // The next look-up succeeds, after the backoff.
        names.set(service, Answer::Lasting(ips(&[&all[1], &all[2]]), 5));
        pass(Duration::from_secs(130)).await;
        until("the name is found again", async || {
            call().await;
            resolver_report(&channel).await.facts["endpoints"] == "2"
        })
        .await;
    }
    channel.close().await;
}

#[tokio::test]
async fn a_channel_that_is_idle_and_one_without_refreshes_ask_nobody() {
    let names = NameServer::start().await;
    let greeter = Greeter::start();
    names.set(NAME, Answer::Lasting(ips(&[&greeter]), 1));
    let target = format!("dns://{}/{NAME}:{}", names.address(), greeter.address().port());
    let idle_timeout = Duration::from_secs(60);
    let rows = [
        (Dns::new(), Some(idle_timeout), 2 * idle_timeout),
        (Dns::new().refresh_every(None), None, Duration::ZERO),
    ];
    for (dns, timeout, passes) in rows {
        let builder = plaintext(&target).resolver("dns", dns).idle_timeout(timeout);
        let channel = builder.build().unwrap();
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        if timeout.is_some() {
            pass(passes).await;
            until_state(&channel, ConnectivityState::Idle).await;
        }
        let asked = names.questions().len();
        for _ in 0..20 {
            pass(Duration::from_secs(300)).await;
            resolver_report(&channel).await;
        }
        assert_eq!(names.questions().len(), asked);
        channel.close().await;
    }
}

#[tokio::test]
async fn one_bad_name_server_of_two_fails_no_look_up() {
    let (bad, good) = (NameServer::start().await, NameServer::start().await);
    let greeter = Greeter::start();
    good.set(NAME, Answer::Addresses(ips(&[&greeter])));
    for answer in [Answer::Failure, Answer::Refusal] {
        bad.set(NAME, answer);
        for servers in [[bad.address(), good.address()], [good.address(), bad.address()]] {
            let conf = File::new("one-bad", servers.map(nameserver).concat());
            for _ in 0..10 {
                let target = format!("dns:{NAME}:{}", greeter.address().port());
                let dns = Dns::new().resolv_conf(&conf.0);
                let channel = plaintext(target).resolver("dns", dns).build().unwrap();
                channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
                channel.close().await;
            }
        }
    }
    // Of the first in the list every look-up began with one question for each family.
    let asked = bad.questions().len();
    assert_eq!(asked, 2 * 10 * 2, "the second of a list is not asked while the first answers");
}

#[tokio::test]
async fn an_answer_of_the_first_name_server_is_final() {
    let (first, second) = (NameServer::start().await, NameServer::start().await);
    let greeter = Greeter::start();
    second.set(NAME, Answer::Addresses(ips(&[&greeter])));
    let conf = File::new("final", [first.address(), second.address()].map(nameserver).concat());
    for (answer, part) in
        [(None, "there is no such name"), (Some(Answer::Addresses(vec![])), "has no addresses")]
    {
        first.remove(NAME);
        if let Some(answer) = answer {
            first.set(NAME, answer);
        }
        let target = format!("dns:{NAME}:{}", greeter.address().port());
        let dns = Dns::new().resolv_conf(&conf.0);
        let channel = plaintext(target).resolver("dns", dns).build().unwrap();
        let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
        assert!(status.message().contains(part), "{status}");
        channel.close().await;
    }
    assert_eq!(second.questions(), []);
}

#[tokio::test]
async fn what_resolv_conf_says_is_read_anew_for_every_look_up() {
    let names = NameServer::start().await;
    let greeter = Greeter::start();
    names.set("greeter.test.example.", Answer::Addresses(ips(&[&greeter])));
    let text = nameserver(names.address());
    let conf = File::new("anew", &text);
    let target = format!("dns:greeter:{}", greeter.address().port());
    let wait = Duration::from_millis(20);
    let backoff = BackoffConfig { base_delay: wait, max_delay: wait, ..BackoffConfig::default() };
    let dns = Dns::new().resolv_conf(&conf.0);
    let channel = plaintext(target).resolver("dns", dns).backoff(backoff).build().unwrap();
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert!(status.message().contains("there is no such name"), "{status}");
    std::fs::write(&conf.0, format!("{text}search test.example\n")).unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada").wait_for_ready(true)).await.unwrap();
    channel.close().await;
}

#[tokio::test]
async fn what_this_machine_knows_is_final_whatever_resolv_conf_holds() {
    let names = NameServer::start().await;
    let greeter = Greeter::start();
    let server = nameserver(names.address());
    let hosts = File::new("local-hosts", "127.0.0.1 greeter greeter.prod.example # one\n");
    let searching = format!("{server}search prod.example\noptions ndots:5\n");
    for (nth, conf) in [&searching, "", "nonsense\n", &server].into_iter().enumerate() {
        let conf = File::new(&format!("local-conf-{nth}"), conf);
        let missing = PathBuf::from("/nowhere/resolv.conf");
        for host in ["greeter", "GREETER.", "localhost", "a.localhost", "greeter.prod.example"] {
            for conf in [&conf.0, &missing] {
                let target = format!("dns:{host}:{}", greeter.address().port());
                let dns = Dns::new().resolv_conf(conf).hosts_file(&hosts.0);
                let channel = plaintext(target).resolver("dns", dns).build().unwrap();
                let reply = channel.invoke(&SAY_HELLO, ask("Ada")).await;
                assert!(reply.is_ok(), "{host}: {reply:?}");
                channel.close().await;
            }
        }
    }
    assert_eq!(names.questions(), []);
}

#[cfg(unix)]
#[tokio::test]
async fn files_that_are_no_files_hold_up_nothing_that_this_machine_knows() {
    let greeter = Greeter::start();
    // A device that never ends, and a folder.
    for path in ["/dev/zero", "/"] {
        let dns = Dns::new().resolv_conf(path).hosts_file(path);
        let target = format!("dns:localhost:{}", greeter.address().port());
        let channel = plaintext(target).resolver("dns", dns.clone()).build().unwrap();
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        channel.close().await;
        let channel = plaintext("dns:greeter").resolver("dns", dns).build().unwrap();
        let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
        let expected = format!("the hosts file {path}: it is a d");
        assert!(status.message().contains(&expected), "{status}");
        channel.close().await;
    }
}

#[tokio::test]
async fn the_systems_resolver_reaches_localhost_and_takes_no_name_server() {
    let greeter = Greeter::start();
    for host in ["localhost", "a.localhost", "127.0.0.1"] {
        let target = format!("dns:///{host}:{}", greeter.address().port());
        let channel = plaintext(target).resolver("dns", Dns::system()).build().unwrap();
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        channel.close().await;
    }
    let builder = plaintext("dns://127.0.0.1/greeter").resolver("dns", Dns::system());
    let error = builder.build().unwrap_err().to_string();
    assert!(error.contains("name servers of its own and not `127.0.0.1`"), "{error}");
}

#[tokio::test]
async fn addresses_of_one_family_do_not_wait_for_the_other_which_joins_when_it_comes() {
    let names = NameServer::start().await;
    let greeter = Greeter::start();
    names.set(NAME, Answer::Addresses(ips(&[&greeter])));
    names.set_kind(NAME, RecordType::AAAA, Answer::Silence);
    let target = format!("dns://{}/{NAME}:{}", names.address(), greeter.address().port());
    // No timeout helps here.
    let dns = Dns::new().query_timeout(Duration::from_secs(3_600));
    let channel = plaintext(&target).resolver("dns", dns.clone()).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert_eq!(resolver_report(&channel).await.facts["endpoints"], "1");
    channel.close().await;
    let late = vec![IpAddr::from(Ipv6Addr::LOCALHOST)];
    names.set_kind(NAME, RecordType::AAAA, Answer::Late(late, Duration::from_millis(300)));
    let channel = plaintext(&target).resolver("dns", dns).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let asked = names.questions().len();
    until("the other address joins", async || {
        resolver_report(&channel).await.facts["endpoints"] == "2"
    })
    .await;
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert_eq!(names.questions().len(), asked, "the late answer is used, not asked for again");
    channel.close().await;
}

#[tokio::test]
async fn a_family_that_nobody_answers_for_keeps_the_addresses_that_it_had() {
    let names = NameServer::start().await;
    let [one, two] = greeters();
    let v6 = vec![IpAddr::from(Ipv6Addr::LOCALHOST)];
    names.set(NAME, Answer::Addresses([ips(&[&one]), v6].concat()));
    let target = format!("{NAME}:{}", one.address().port());
    let channel = to(&names, target).default_service_config(ROUND_ROBIN).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert_eq!(resolver_report(&channel).await.facts["endpoints"], "2");
    // The address on which nobody listens has the channel ask again, and again.
    names.set_kind(NAME, RecordType::AAAA, Answer::Failure);
    names.set(NAME, Answer::Addresses(ips(&[&one, &two])));
    until("the second server is found", async || {
        let _ = channel.invoke(&SAY_HELLO, ask("Ada")).await;
        two.received() > 0
    })
    .await;
    assert_eq!(resolver_report(&channel).await.facts["endpoints"], "3");
    channel.close().await;
}
