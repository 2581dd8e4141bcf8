// jetcd at work.
//
// Usage: Scenario ENDPOINT[,ENDPOINT...] [SCENARIO...]; INTEROP_USER and INTEROP_PASSWORD log in. `? kill-leader` and `? restart`
// on stdout ask the harness for them; it answers by a line. Exits 0 when all held.

import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.Election;
import io.etcd.jetcd.KeyValue;
import io.etcd.jetcd.Watch;
import io.etcd.jetcd.common.exception.CompactedException;
import io.etcd.jetcd.election.LeaderResponse;
import io.etcd.jetcd.kv.GetResponse;
import io.etcd.jetcd.kv.TxnResponse;
import io.etcd.jetcd.lease.LeaseKeepAliveResponse;
import io.etcd.jetcd.op.Cmp;
import io.etcd.jetcd.op.CmpTarget;
import io.etcd.jetcd.op.Op;
import io.etcd.jetcd.options.DeleteOption;
import io.etcd.jetcd.options.GetOption;
import io.etcd.jetcd.options.LeaseOption;
import io.etcd.jetcd.options.PutOption;
import io.etcd.jetcd.options.WatchOption;
import io.etcd.jetcd.watch.WatchEvent;
import io.etcd.jetcd.watch.WatchResponse;
import io.grpc.stub.StreamObserver;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

public final class Scenario {
  private static final long WITHIN = 60;
  private static final BufferedReader TYPED = new BufferedReader(new InputStreamReader(System.in));

  interface Play {
    void with(Client client, Client other) throws Exception;
  }

  static ByteSequence bytes(String text) {
    return ByteSequence.from(text, StandardCharsets.UTF_8);
  }

  static <T> T get(CompletableFuture<T> answer) throws Exception {
    return answer.get(WITHIN, TimeUnit.SECONDS);
  }

  static void must(boolean held, Object met) {
    if (!held) {
      throw new AssertionError(met);
    }
  }

  static void ask(String what) throws Exception {
    System.out.println("? " + what);
    System.out.flush();
    must(TYPED.readLine() != null, "nobody answers " + what);
  }

  /** What a change of leader may interrupt is tried again, as any program has to. */
  static <T> T again(Callable<CompletableFuture<T>> attempt) throws Exception {
    long until = System.nanoTime() + TimeUnit.SECONDS.toNanos(WITHIN);
    while (true) {
      try {
        return attempt.call().get(5, TimeUnit.SECONDS);
      } catch (Exception interrupted) {
        if (System.nanoTime() > until) {
          throw interrupted;
        }
        Thread.sleep(100);
      }
    }
  }

  static GetOption prefix() {
    return GetOption.builder().isPrefix(true).build();
  }

  static Client connect(String[] endpoints) {
    var builder = Client.builder().endpoints(endpoints).connectTimeout(Duration.ofSeconds(10)).maxInboundMessageSize(64 << 20);
    String user = System.getenv("INTEROP_USER");
    if (user != null) {
      builder = builder.user(bytes(user)).password(bytes(System.getenv("INTEROP_PASSWORD")));
    }
    return builder.build();
  }

  static void keys(Client client, Client other) throws Exception {
    var kv = client.getKVClient();
    kv.put(bytes("java/a"), bytes("1")).get();
    var replaced = get(kv.put(bytes("java/a"), bytes("2"), PutOption.builder().withPrevKV().build()));
    must(replaced.getPrevKv().getValue().equals(bytes("1")), replaced);
    get(kv.put(bytes("java/b"), bytes("3")));
    var sorted = GetOption.builder().isPrefix(true).withSortField(GetOption.SortTarget.VALUE).withSortOrder(GetOption.SortOrder.DESCEND).build();
    GetResponse found = get(other.getKVClient().get(bytes("java/"), sorted));
    must(found.getCount() == 2 && found.getKvs().get(0).getKey().equals(bytes("java/b")), found);
    long before = replaced.getHeader().getRevision() - 1;
    GetResponse past = get(other.getKVClient().get(bytes("java/a"), GetOption.builder().withRevision(before).build()));
    must(past.getKvs().get(0).getValue().equals(bytes("1")), past);
    var gone = get(kv.delete(bytes("java/"), DeleteOption.builder().isPrefix(true).withPrevKV(true).build()));
    must(gone.getDeleted() == 2 && gone.getPrevKvs().size() == 2, gone);
  }

  static void compareAndSwap(Client client, Client other) throws Exception {
    ByteSequence key = bytes("java-cas");
    get(client.getKVClient().put(key, bytes("0")));
    ExecutorService writers = Executors.newFixedThreadPool(4);
    List<Future<?>> all = new ArrayList<>();
    for (Client own : List.of(client, other, client, other)) {
      all.add(writers.submit((Callable<Void>) () -> {
        for (int done = 0; done < 20; ) {
          KeyValue kv = get(own.getKVClient().get(key)).getKvs().get(0);
          ByteSequence next = bytes(Integer.toString(Integer.parseInt(kv.getValue().toString()) + 1));
          TxnResponse swap = get(own.getKVClient().txn()
              .If(new Cmp(key, Cmp.Op.EQUAL, CmpTarget.modRevision(kv.getModRevision())))
              .Then(Op.put(key, next, PutOption.DEFAULT)).commit());
          done += swap.isSucceeded() ? 1 : 0;
        }
        return null;
      }));
    }
    for (Future<?> one : all) {
      one.get(WITHIN, TimeUnit.SECONDS);
    }
    writers.shutdown();
    must(get(other.getKVClient().get(key)).getKvs().get(0).getValue().equals(bytes("80")), "a step was lost");
  }

  static void nestedTransactions(Client client, Client other) throws Exception {
    ByteSequence outer = bytes("java-outer"), inner = bytes("java-inner");
    get(client.getKVClient().put(outer, bytes("1")));
    Op nested = Op.txn(
        new Cmp[] {new Cmp(inner, Cmp.Op.EQUAL, CmpTarget.version(0))},
        new Op[] {Op.put(inner, bytes("made"), PutOption.DEFAULT)},
        new Op[] {});
    TxnResponse done = get(other.getKVClient().txn()
        .If(new Cmp(outer, Cmp.Op.EQUAL, CmpTarget.value(bytes("1"))))
        .Then(nested, Op.get(inner, GetOption.DEFAULT), Op.delete(outer, DeleteOption.DEFAULT)).commit());
    must(done.isSucceeded() && done.getTxnResponses().get(0).isSucceeded(), done);
    must(done.getGetResponses().get(0).getKvs().get(0).getValue().equals(bytes("made")), done);
    must(get(client.getKVClient().get(outer)).getCount() == 0, "the deleted key is there");
    get(client.getKVClient().delete(inner));
  }

  static void paging(Client client, Client other) throws Exception {
    for (int from = 0; from < 5_000; from += 100) {
      Op[] puts = new Op[100];
      for (int i = 0; i < puts.length; i++) {
        puts[i] = Op.put(bytes(String.format("java-page/%05d", from + i)), bytes("page me"), PutOption.DEFAULT);
      }
      get(client.getKVClient().txn().Then(puts).commit());
    }
    ByteSequence start = bytes("java-page/");
    int seen = 0;
    long revision = 0;
    while (true) {
      var options = GetOption.builder().withRange(bytes("java-page0")).withLimit(500).withRevision(revision).build();
      GetResponse page = get(other.getKVClient().get(start, options));
      revision = revision == 0 ? page.getHeader().getRevision() : revision;
      for (KeyValue kv : page.getKvs()) {
        must(kv.getKey().equals(bytes(String.format("java-page/%05d", seen))), kv);
        seen++;
      }
      if (!page.isMore()) {
        break;
      }
      start = page.getKvs().get(499).getKey().concat(ByteSequence.from(new byte[] {0}));
      get(client.getKVClient().put(bytes(String.format("java-page/%05d-new", seen)), bytes("later")));
    }
    must(seen == 5_000, seen);
    get(client.getKVClient().delete(bytes("java-page/"), DeleteOption.builder().isPrefix(true).build()));
  }

  /** Values of the next events; a delete is "-". */
  static List<String> events(BlockingQueue<Object> told, int count) throws Exception {
    List<String> values = new ArrayList<>();
    while (values.size() < count) {
      Object message = told.poll(WITHIN, TimeUnit.SECONDS);
      must(message instanceof WatchResponse, "told " + message + " after " + values);
      for (WatchEvent event : ((WatchResponse) message).getEvents()) {
        values.add(event.getEventType() == WatchEvent.EventType.DELETE ? "-" : event.getKeyValue().getValue().toString());
      }
    }
    return values;
  }

  static void listThenWatch(Client client, Client other) throws Exception {
    get(client.getKVClient().put(bytes("java-lw/1"), bytes("x")));
    GetResponse listed = get(other.getKVClient().get(bytes("java-lw/"), prefix()));
    List<String> expected = new ArrayList<>();
    for (int i = 0; i < 20; i++) {
      get(client.getKVClient().put(bytes("java-lw/" + i % 5), bytes(Integer.toString(i))));
      expected.add(Integer.toString(i));
    }
    get(client.getKVClient().delete(bytes("java-lw/1")));
    expected.add("-");
    BlockingQueue<Object> told = new LinkedBlockingQueue<>();
    var options = WatchOption.builder().isPrefix(true).withRevision(listed.getHeader().getRevision() + 1).withPrevKV(true).build();
    try (var watcher = other.getWatchClient().watch(bytes("java-lw/"), options, Watch.listener(told::add, told::add))) {
      List<String> seen = events(told, expected.size());
      must(seen.equals(expected), seen);
    }
  }

  static void watchAfterCompaction(Client client, Client other) throws Exception {
    ByteSequence key = bytes("java-compact");
    List<Long> revisions = new ArrayList<>();
    for (int i = 0; i < 6; i++) {
      revisions.add(get(client.getKVClient().put(key, bytes(Integer.toString(i)))).getHeader().getRevision());
    }
    get(client.getKVClient().compact(revisions.get(4)));
    BlockingQueue<Object> told = new LinkedBlockingQueue<>();
    var late = WatchOption.builder().withRevision(revisions.get(1)).build();
    long resume;
    try (var watcher = other.getWatchClient().watch(key, late, Watch.listener(told::add, told::add))) {
      Object refused = told.poll(WITHIN, TimeUnit.SECONDS);
      must(refused instanceof CompactedException, refused);
      resume = ((CompactedException) refused).getCompactedRevision();
    }
    must(resume == revisions.get(4), resume);
    told.clear();
    var resumed = WatchOption.builder().withRevision(resume).build();
    try (var watcher = other.getWatchClient().watch(key, resumed, Watch.listener(told::add, told::add))) {
      must(events(told, 2).equals(List.of("4", "5")), "resumed elsewhere");
    }
  }

  static StreamObserver<LeaseKeepAliveResponse> into(BlockingQueue<Object> renewals) {
    return new StreamObserver<>() {
      @Override
      public void onNext(LeaseKeepAliveResponse renewal) {
        renewals.add(renewal);
      }

      @Override
      public void onError(Throwable error) {
        renewals.add(error);
      }

      @Override
      public void onCompleted() {}
    };
  }

  static void leases(Client client, Client other) throws Exception {
    long id = get(client.getLeaseClient().grant(600)).getID();
    ByteSequence key = bytes("java-leased");
    get(client.getKVClient().put(key, bytes("x"), PutOption.builder().withLeaseId(id).build()));
    var left = get(other.getLeaseClient().timeToLive(id, LeaseOption.builder().withAttachedKeys().build()));
    must(left.getGrantedTTL() == 600 && left.getKeys().size() == 1, left);
    must(get(other.getLeaseClient().keepAliveOnce(id)).getTTL() == 600, "renewed for another time");
    get(client.getLeaseClient().revoke(id));
    must(get(other.getKVClient().get(key)).getCount() == 0, "a key outlives its lease");
  }

  /** By the server's lock service. */
  static void locks(Client client, Client other) throws Exception {
    AtomicInteger inside = new AtomicInteger();
    ExecutorService holders = Executors.newFixedThreadPool(4);
    List<Future<?>> all = new ArrayList<>();
    for (Client own : List.of(client, other, client, other)) {
      all.add(holders.submit((Callable<Void>) () -> {
        for (int turn = 0; turn < 3; turn++) {
          long lease = get(own.getLeaseClient().grant(30)).getID();
          ByteSequence held = get(own.getLockClient().lock(bytes("java-lock"), lease)).getKey();
          must(inside.incrementAndGet() == 1, "two hold one lock");
          Thread.sleep(5);
          inside.decrementAndGet();
          get(own.getLockClient().unlock(held));
          get(own.getLeaseClient().revoke(lease));
        }
        return null;
      }));
    }
    for (Future<?> one : all) {
      one.get(WITHIN, TimeUnit.SECONDS);
    }
    holders.shutdown();
  }

  /** By the server's election service. */
  static void elections(Client client, Client other) throws Exception {
    long one = get(client.getLeaseClient().grant(30)).getID(), two = get(other.getLeaseClient().grant(30)).getID();
    ByteSequence seat = bytes("java-seat");
    var first = get(client.getElectionClient().campaign(seat, one, bytes("one"))).getLeader();
    BlockingQueue<Object> observed = new LinkedBlockingQueue<>();
    other.getElectionClient().observe(seat, new Election.Listener() {
      @Override
      public void onNext(LeaderResponse seen) {
        observed.add(seen.getKv().getValue().toString());
      }

      @Override
      public void onError(Throwable error) {
        observed.add(error);
      }

      @Override
      public void onCompleted() {}
    });
    var campaign = other.getElectionClient().campaign(seat, two, bytes("two"));
    must("one".equals(observed.poll(WITHIN, TimeUnit.SECONDS)), "the leader is not observed");
    get(client.getElectionClient().proclaim(first, bytes("one again")));
    must("one again".equals(observed.poll(WITHIN, TimeUnit.SECONDS)), "the proclamation is not observed");
    must(!campaign.isDone(), "two lead at once");
    get(client.getElectionClient().resign(first));
    var second = get(campaign).getLeader();
    must(get(client.getElectionClient().leader(seat)).getKv().getValue().equals(bytes("two")), "another leads");
    get(other.getElectionClient().resign(second));
  }

  static void overLeaderKill(Client client, Client other) throws Exception {
    long lease = get(client.getLeaseClient().grant(8)).getID();
    ByteSequence key = bytes("java-kept");
    get(client.getKVClient().put(key, bytes("x"), PutOption.builder().withLeaseId(lease).build()));
    BlockingQueue<Object> renewals = new LinkedBlockingQueue<>();
    BlockingQueue<Object> told = new LinkedBlockingQueue<>();
    var watching = WatchOption.builder().isPrefix(true).build();
    try (var kept = client.getLeaseClient().keepAlive(lease, into(renewals));
        var watcher = other.getWatchClient().watch(bytes("java-over/"), watching, Watch.listener(told::add))) {
      ask("kill-leader");
      for (int i = 0; i < 5; i++) {
        ByteSequence number = bytes(Integer.toString(i));
        again(() -> client.getKVClient().put(bytes("java-over/").concat(number), number));
      }
      must(events(told, 5).containsAll(List.of("0", "1", "2", "3", "4")), "an event was lost");
      // For longer than it lives without a renewal.
      Thread.sleep(10_000);
      must(again(() -> other.getKVClient().get(key)).getCount() == 1, "the leased key is gone; " + renewals);
      ask("restart");
    }
    again(() -> client.getLeaseClient().revoke(lease));
  }

  public static void main(String[] arguments) throws Exception {
    String[] endpoints = arguments[0].split(",");
    List<String> wanted = List.of(arguments).subList(1, arguments.length);
    Map<String, Play> plays = new LinkedHashMap<>();
    plays.put("keys", Scenario::keys);
    plays.put("compareAndSwap", Scenario::compareAndSwap);
    plays.put("nestedTransactions", Scenario::nestedTransactions);
    plays.put("paging", Scenario::paging);
    plays.put("listThenWatch", Scenario::listThenWatch);
    plays.put("watchAfterCompaction", Scenario::watchAfterCompaction);
    plays.put("leases", Scenario::leases);
    plays.put("locks", Scenario::locks);
    plays.put("elections", Scenario::elections);
    if (endpoints.length > 2) {
      plays.put("overLeaderKill", Scenario::overLeaderKill);
    }
    for (var play : plays.entrySet()) {
      if (!wanted.isEmpty() && !wanted.contains(play.getKey())) {
        continue;
      }
      try (Client client = connect(endpoints); Client other = connect(endpoints)) {
        play.getValue().with(client, other);
      } catch (Throwable failure) {
        System.out.println("jetcd: " + play.getKey() + " failed");
        failure.printStackTrace(System.out);
        System.exit(1);
      }
      System.out.println("jetcd: " + play.getKey() + " held");
    }
    System.exit(0);
  }
}
