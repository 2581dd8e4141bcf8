//! The `etcd-client` crate at work.
//!
//! Usage: interop ENDPOINT[,ENDPOINT...] [SCENARIO...]; INTEROP_USER and INTEROP_PASSWORD log in. `? kill-leader` and `? restart`
//! on stdout ask the harness for them; it answers by a line. Exits 0 when all held.

use std::time::{Duration, Instant};

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, DeleteOptions, Error, EventType, GetOptions,
    LockOptions, ProclaimOptions, PutOptions, ResignOptions, SortOrder, SortTarget, Txn, TxnOp,
    TxnOpResponse, WatchOptions, WatchStream,
};

type Outcome = Result<(), Error>;

const WITHIN: Duration = Duration::from_secs(60);

async fn connect(endpoints: &[String]) -> Result<Client, Error> {
    let options = match (
        std::env::var("INTEROP_USER"),
        std::env::var("INTEROP_PASSWORD"),
    ) {
        (Ok(user), Ok(password)) => Some(ConnectOptions::new().with_user(user, password)),
        _ => None,
    };
    Client::connect(endpoints, options).await
}

fn ask(what: &str) {
    println!("? {what}");
    let read = std::io::stdin().read_line(&mut String::new());
    assert!(read.is_ok_and(|bytes| bytes > 0), "nobody answers {what}");
}

/// What a change of leader may interrupt is tried again, as any program has to.
async fn again<T>(mut attempt: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Error> {
    let until = Instant::now() + WITHIN;
    loop {
        match attempt().await {
            Err(_) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(100)).await
            }
            answer => return answer,
        }
    }
}

async fn keys(mut client: Client, mut other: Client) -> Outcome {
    client.put("rs/a", "1", None).await?;
    let replaced = client
        .put("rs/a", "2", Some(PutOptions::new().with_prev_key()))
        .await?;
    assert_eq!(replaced.prev_key().map(|kv| kv.value()), Some(&b"1"[..]));
    client.put("rs/b", "3", None).await?;
    let sorted = GetOptions::new()
        .with_prefix()
        .with_sort(SortTarget::Value, SortOrder::Descend);
    let found = other.get("rs/", Some(sorted)).await?;
    assert_eq!(found.count(), 2);
    assert_eq!(found.kvs()[0].key(), b"rs/b");
    let revision = replaced.header().map_or(0, |header| header.revision());
    let past = other
        .get("rs/a", Some(GetOptions::new().with_revision(revision - 1)))
        .await?;
    assert_eq!(past.kvs()[0].value(), b"1");
    let refused = other.get("", None).await.expect_err("no key at all");
    assert!(
        refused.to_string().contains("key is not provided"),
        "{refused}"
    );
    let refused = other
        .get("rs/a", Some(GetOptions::new().with_revision(1 << 40)))
        .await
        .expect_err("to come");
    assert!(
        refused
            .to_string()
            .contains("required revision is a future revision"),
        "{refused}"
    );
    let gone = other
        .delete(
            "rs/",
            Some(DeleteOptions::new().with_prefix().with_prev_key()),
        )
        .await?;
    assert_eq!((gone.deleted(), gone.prev_kvs().len()), (2, 2));
    Ok(())
}

async fn compare_and_swap(mut client: Client, other: Client) -> Outcome {
    client.put("rs-cas", "0", None).await?;
    let writers = [client.clone(), other.clone(), client.clone(), other].map(|mut own| {
        tokio::spawn(async move {
            let mut done = 0;
            while done < 20 {
                let read = own.get("rs-cas", None).await?;
                let kv = &read.kvs()[0];
                let number: u32 = kv.value_str()?.parse().expect("a number");
                let swap = Txn::new()
                    .when([Compare::mod_revision(
                        "rs-cas",
                        CompareOp::Equal,
                        kv.mod_revision(),
                    )])
                    .and_then([TxnOp::put("rs-cas", (number + 1).to_string(), None)]);
                done += usize::from(own.txn(swap).await?.succeeded());
            }
            Ok::<_, Error>(())
        })
    });
    for writer in writers {
        writer.await.expect("a writer ends")?;
    }
    assert_eq!(client.get("rs-cas", None).await?.kvs()[0].value(), b"80");
    Ok(())
}

async fn nested_transactions(mut client: Client, mut other: Client) -> Outcome {
    client.put("rs-outer", "1", None).await?;
    let inner = Txn::new()
        .when([Compare::create_revision("rs-inner", CompareOp::Equal, 0)])
        .and_then([
            TxnOp::put("rs-inner", "made", None),
            TxnOp::get("rs-inner", None),
        ]);
    let outer = Txn::new()
        .when([Compare::value("rs-outer", CompareOp::Equal, "1")])
        .and_then([TxnOp::txn(inner), TxnOp::delete("rs-outer", None)]);
    let done = other.txn(outer).await?;
    assert!(done.succeeded());
    let responses = done.op_responses();
    let TxnOpResponse::Txn(nested) = &responses[0] else {
        panic!("{responses:?}")
    };
    assert!(nested.succeeded());
    assert_eq!(client.get("rs-outer", None).await?.count(), 0);
    client.delete("rs-inner", None).await?;
    Ok(())
}

async fn paging(mut client: Client, mut other: Client) -> Outcome {
    for from in (0..5_000).step_by(100) {
        let puts: Vec<_> = (from..from + 100)
            .map(|i| TxnOp::put(format!("rs-page/{i:05}"), "page me", None))
            .collect();
        client.txn(Txn::new().and_then(puts)).await?;
    }
    let (mut start, mut seen, mut revision) = (b"rs-page/".to_vec(), 0, 0);
    loop {
        let options = GetOptions::new()
            .with_range("rs-page0")
            .with_limit(500)
            .with_revision(revision);
        let page = other.get(start, Some(options)).await?;
        if revision == 0 {
            revision = page.header().map_or(0, |header| header.revision());
        }
        for kv in page.kvs() {
            assert_eq!(kv.key(), format!("rs-page/{seen:05}").as_bytes());
            seen += 1;
        }
        if !page.more() {
            break;
        }
        start = [page.kvs()[499].key(), b"\0"].concat();
        client
            .put(format!("rs-page/{seen:05}-new"), "later", None)
            .await?;
    }
    assert_eq!(seen, 5_000);
    client
        .delete("rs-page/", Some(DeleteOptions::new().with_prefix()))
        .await?;
    Ok(())
}

/// The values of the next `count` events; a delete is `-`.
async fn events(watch: &mut WatchStream, count: usize) -> Result<Vec<String>, Error> {
    let mut told = Vec::new();
    while told.len() < count {
        let message = watch.message().await?.expect("the watch goes on");
        assert!(!message.canceled(), "{message:?}");
        for event in message.events() {
            told.push(match event.event_type() {
                EventType::Delete => "-".to_owned(),
                EventType::Put => event
                    .kv()
                    .expect("an event has a record")
                    .value_str()?
                    .to_owned(),
            });
        }
    }
    Ok(told)
}

async fn list_then_watch(mut client: Client, mut other: Client) -> Outcome {
    client.put("rs-lw/1", "x", None).await?;
    let listed = other
        .get("rs-lw/", Some(GetOptions::new().with_prefix()))
        .await?;
    for number in 0..20 {
        client
            .put(format!("rs-lw/{}", number % 5), number.to_string(), None)
            .await?;
    }
    client.delete("rs-lw/1", None).await?;
    let from = listed.header().map_or(0, |header| header.revision()) + 1;
    let mut watch = other
        .watch(
            "rs-lw/",
            Some(WatchOptions::new().with_prefix().with_start_revision(from)),
        )
        .await?;
    let expected: Vec<_> = (0..20)
        .map(|number| number.to_string())
        .chain(["-".to_owned()])
        .collect();
    assert_eq!(events(&mut watch, 21).await?, expected);
    Ok(())
}

async fn watch_after_compaction(mut client: Client, mut other: Client) -> Outcome {
    let mut revisions = Vec::new();
    for number in 0..6 {
        let put = client.put("rs-compact", number.to_string(), None).await?;
        revisions.push(put.header().map_or(0, |header| header.revision()));
    }
    client.compact(revisions[4], None).await?;
    let from = |revision| Some(WatchOptions::new().with_start_revision(revision));
    let mut late = other.watch("rs-compact", from(revisions[1])).await?;
    let cancelled = loop {
        let message = late.message().await?.expect("told that it is cancelled");
        if message.canceled() {
            break message;
        }
    };
    assert_eq!(cancelled.compact_revision(), revisions[4]);
    let mut resumed = other
        .watch("rs-compact", from(cancelled.compact_revision()))
        .await?;
    assert_eq!(events(&mut resumed, 2).await?, ["4", "5"]);
    Ok(())
}

async fn leases(mut client: Client, mut other: Client) -> Outcome {
    let id = client.lease_grant(600, None).await?.id();
    client
        .put("rs-leased", "x", Some(PutOptions::new().with_lease(id)))
        .await?;
    let left = other
        .lease_time_to_live(
            id,
            Some(etcd_client::LeaseTimeToLiveOptions::new().with_keys()),
        )
        .await?;
    assert_eq!(
        (left.granted_ttl(), left.keys()),
        (600, &[b"rs-leased".to_vec()][..])
    );
    let (mut keeper, mut renewals) = other.lease_keep_alive(id).await?;
    for _ in 0..3 {
        keeper.keep_alive().await?;
        assert_eq!(
            renewals.message().await?.map(|renewal| renewal.ttl()),
            Some(600)
        );
    }
    client.lease_revoke(id).await?;
    assert_eq!(other.get("rs-leased", None).await?.count(), 0);
    Ok(())
}

/// By the server's lock service.
async fn locks(client: Client, other: Client) -> Outcome {
    let held = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let holders = [client.clone(), other.clone(), client, other].map(|mut own| {
        let held = held.clone();
        tokio::spawn(async move {
            for _ in 0..3 {
                let lease = own.lease_grant(30, None).await?.id();
                let lock = own
                    .lock("rs-lock", Some(LockOptions::new().with_lease(lease)))
                    .await?;
                assert_eq!(
                    held.fetch_add(1, std::sync::atomic::Ordering::SeqCst),
                    0,
                    "two hold one lock"
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
                held.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                own.unlock(lock.key()).await?;
                own.lease_revoke(lease).await?;
            }
            Ok::<_, Error>(())
        })
    });
    for holder in holders {
        holder.await.expect("a holder ends")?;
    }
    Ok(())
}

/// By the server's election service.
async fn elections(mut client: Client, mut other: Client) -> Outcome {
    let (one, two) = (
        client.lease_grant(30, None).await?.id(),
        other.lease_grant(30, None).await?.id(),
    );
    let first = client.campaign("rs-seat", "one", one).await?;
    let seat = first.leader().expect("who is elected has a seat").clone();
    let mut observed = other.observe("rs-seat").await?;
    let mut candidate = other.clone();
    let campaign = tokio::spawn(async move { candidate.campaign("rs-seat", "two", two).await });
    client
        .proclaim(
            "one again",
            Some(ProclaimOptions::new().with_leader(seat.clone())),
        )
        .await?;
    let leads = other.leader("rs-seat").await?;
    assert_eq!(leads.kv().map(|kv| kv.value()), Some(&b"one again"[..]));
    let seen = observed.message().await?.expect("a leader is observed");
    assert!(seen.kv().is_some_and(|kv| kv.value().starts_with(b"one")));
    assert!(!campaign.is_finished(), "two lead at once");
    client
        .resign(Some(ResignOptions::new().with_leader(seat)))
        .await?;
    campaign.await.expect("the campaign ends")?;
    let leads = client.leader("rs-seat").await?;
    assert_eq!(leads.kv().map(|kv| kv.value()), Some(&b"two"[..]));
    other.lease_revoke(two).await?;
    client.lease_revoke(one).await?;
    Ok(())
}

async fn over_leader_kill(mut client: Client, mut other: Client) -> Outcome {
    let lease = client.lease_grant(8, None).await?.id();
    client
        .put("rs-kept", "x", Some(PutOptions::new().with_lease(lease)))
        .await?;
    ask("kill-leader");
    for number in 0..5 {
        again(async || {
            client
                .put(format!("rs-over/{number}"), number.to_string(), None)
                .await
        })
        .await?;
    }
    // Renewed for longer than it lives without.
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        again(async || {
            let (mut keeper, mut renewals) = client.lease_keep_alive(lease).await?;
            keeper.keep_alive().await?;
            renewals.message().await
        })
        .await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let kept = again(async || other.get("rs-kept", None).await).await?;
    assert_eq!(kept.count(), 1, "the leased key is gone");
    let over = again(async || {
        other
            .get("rs-over/", Some(GetOptions::new().with_prefix()))
            .await
    })
    .await?;
    assert_eq!(over.count(), 5);
    ask("restart");
    again(async || client.lease_revoke(lease).await).await?;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let endpoints: Vec<String> = std::env::args()
        .nth(1)
        .expect("endpoints")
        .split(',')
        .map(str::to_owned)
        .collect();
    let wanted: Vec<String> = std::env::args().skip(2).collect();
    macro_rules! play {
        ($($scenario:ident)*) => {$(
            if wanted.is_empty() || wanted.iter().any(|name| name == stringify!($scenario)) {
                $scenario(connect(&endpoints).await?, connect(&endpoints).await?).await?;
                println!("etcd-client: {} held", stringify!($scenario));
            }
        )*};
    }
    play!(keys compare_and_swap nested_transactions paging list_then_watch watch_after_compaction leases locks elections);
    if endpoints.len() > 2 {
        play!(over_leader_kill);
    }
    Ok(())
}
