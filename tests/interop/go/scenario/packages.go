package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/ordering"
	"go.etcd.io/etcd/client/v3/yaml"
)

func naming(ctx context.Context, w *world) error {
	service := strings.TrimSuffix(w.prefix, "/")
	registry, err := endpoints.NewManager(w.client, service)
	if err != nil {
		return err
	}
	lease, err := w.client.Grant(ctx, 60)
	if err != nil {
		return err
	}
	add := func(name string) error {
		return registry.AddEndpoint(ctx, service+"/"+name, endpoints.Endpoint{Addr: name + ":1", Metadata: "about " + name}, clientv3.WithLease(lease.ID))
	}
	if err := add("one"); err != nil {
		return err
	}
	seen, err := endpoints.NewManager(w.other, service)
	if err != nil {
		return err
	}
	changes, err := seen.NewWatchChannel(ctx)
	if err != nil {
		return err
	}
	if first := <-changes; len(first) != 1 || first[0].Endpoint.Addr != "one:1" {
		return fmt.Errorf("first told %v", first)
	}
	if err := add("two"); err != nil {
		return err
	}
	if second := <-changes; second[0].Op != endpoints.Add || second[0].Endpoint.Addr != "two:1" {
		return fmt.Errorf("then told %v", second)
	}
	all, err := seen.List(ctx)
	if err != nil {
		return err
	}
	// It reads serializably, wherever it asks: that member may not have heard yet.
	for tries := 0; len(all) < 2 && tries < 100; tries++ {
		time.Sleep(50 * time.Millisecond)
		if all, err = seen.List(ctx); err != nil {
			return err
		}
	}
	if err := must(len(all) == 2 && all[service+"/two"].Metadata == "about two", "listed %v", all); err != nil {
		return err
	}
	// The service ends, and with its lease its endpoints.
	if _, err := w.client.Revoke(ctx, lease.ID); err != nil {
		return err
	}
	for gone := 0; gone < 2; {
		for _, change := range <-changes {
			if err := must(change.Op == endpoints.Delete, "last told %v", change); err != nil {
				return err
			}
			gone++
		}
	}
	return nil
}

func leasingClients(ctx context.Context, w *world) error {
	first, closeFirst, err := leasing.NewKV(w.client, w.prefix+"leasing/")
	if err != nil {
		return err
	}
	defer closeFirst()
	second, closeSecond, err := leasing.NewKV(w.other, w.prefix+"leasing/")
	if err != nil {
		return err
	}
	defer closeSecond()
	key := w.prefix + "k"
	if _, err := w.client.Put(ctx, key, "1"); err != nil {
		return err
	}
	for i := range 3 {
		read, err := first.Get(ctx, key)
		if err != nil {
			return err
		}
		if err := must(string(read.Kvs[0].Value) == "1", "read %d: %v", i, read.Kvs); err != nil {
			return err
		}
	}
	// The first owns the key now; the second makes it give up, and sees and is seen.
	if _, err := second.Put(ctx, key, "2"); err != nil {
		return err
	}
	read, err := first.Get(ctx, key)
	if err != nil {
		return err
	}
	if err := must(string(read.Kvs[0].Value) == "2", "the owner still reads %s", read.Kvs[0].Value); err != nil {
		return err
	}
	done, err := first.Txn(ctx).If(clientv3.Compare(clientv3.Value(key), "=", "2")).Then(clientv3.OpPut(key, "3"), clientv3.OpGet(key)).Commit()
	if err != nil {
		return err
	}
	if err := must(done.Succeeded, "the owner's transaction %v", done); err != nil {
		return err
	}
	last, err := second.Get(ctx, key)
	if err != nil {
		return err
	}
	return must(string(last.Kvs[0].Value) == "3", "the other reads %s", last.Kvs[0].Value)
}

func mirroring(ctx context.Context, w *world) error {
	source, target := w.prefix+"source/", w.prefix+"target/"
	const many = 2_500
	for from := 0; from < many; from += 100 {
		var puts []clientv3.Op
		for i := from; i < from+100; i++ {
			puts = append(puts, clientv3.OpPut(fmt.Sprintf("%s%05d", source, i), fmt.Sprint(i)))
		}
		if _, err := w.client.Txn(ctx).Then(puts...).Commit(); err != nil {
			return err
		}
	}
	syncer := mirror.NewSyncer(w.client, source, 0)
	base, failures := syncer.SyncBase(ctx)
	copied := 0
	for page := range base {
		copied += len(page.Kvs)
		for some := range slices.Chunk(page.Kvs, 100) {
			var puts []clientv3.Op
			for _, kv := range some {
				puts = append(puts, clientv3.OpPut(target+strings.TrimPrefix(string(kv.Key), source), string(kv.Value)))
			}
			if _, err := w.other.Txn(ctx).Then(puts...).Commit(); err != nil {
				return err
			}
		}
	}
	if err := <-failures; err != nil {
		return err
	}
	if err := must(copied == many, "%d copied", copied); err != nil {
		return err
	}
	updates := syncer.SyncUpdates(ctx)
	if _, err := w.client.Put(ctx, source+"late", "x"); err != nil {
		return err
	}
	if _, err := w.client.Delete(ctx, source+"00000"); err != nil {
		return err
	}
	var told []string
	for len(told) < 2 {
		update := <-updates
		if err := update.Err(); err != nil {
			return err
		}
		for _, event := range update.Events {
			told = append(told, event.Type.String()+" "+strings.TrimPrefix(string(event.Kv.Key), source))
		}
	}
	if err := must(told[0] == "PUT late" && told[1] == "DELETE 00000", "told %v", told); err != nil {
		return err
	}
	_, err := w.client.Delete(ctx, w.prefix, clientv3.WithPrefix())
	return err
}

func namespaced(ctx context.Context, w *world) error {
	kv, watcher, lease := namespace.NewKV(w.client, w.prefix), namespace.NewWatcher(w.client, w.prefix), namespace.NewLease(w.client, w.prefix)
	granted, err := lease.Grant(ctx, 60)
	if err != nil {
		return err
	}
	told := watcher.Watch(ctx, "", clientv3.WithPrefix())
	done, err := kv.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision("a"), "=", 0)).
		Then(clientv3.OpPut("a", "1", clientv3.WithLease(granted.ID)), clientv3.OpGet("a")).
		Commit()
	if err != nil {
		return err
	}
	inside := done.Responses[1].GetResponseRange().Kvs[0]
	if err := must(string(inside.Key) == "a", "inside it is %s", inside.Key); err != nil {
		return err
	}
	outside, err := w.other.Get(ctx, w.prefix+"a")
	if err != nil {
		return err
	}
	if err := must(outside.Count == 1, "outside it is not there"); err != nil {
		return err
	}
	left, err := lease.TimeToLive(ctx, granted.ID, clientv3.WithAttachedKeys())
	if err != nil {
		return err
	}
	if err := must(len(left.Keys) == 1 && string(left.Keys[0]) == "a", "attached %v", left.Keys); err != nil {
		return err
	}
	// One beside the namespace is none of its.
	if _, err := w.other.Put(ctx, "go/namespacf", "x"); err != nil {
		return err
	}
	all, err := kv.Get(ctx, "", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	if err := must(all.Count == 1, "%d keys in the namespace", all.Count); err != nil {
		return err
	}
	message := <-told
	if err := must(len(message.Events) == 1 && string(message.Events[0].Kv.Key) == "a", "told %v", message.Events); err != nil {
		return err
	}
	_, err = lease.Revoke(ctx, granted.ID)
	return err
}

// Serializable reads from any member, never older than what was read before.
func ordered(ctx context.Context, w *world) error {
	key := w.prefix + "k"
	kv := ordering.NewKV(w.client.KV, ordering.NewOrderViolationSwitchEndpointClosure(w.client))
	last := int64(0)
	for i := range 50 {
		if _, err := w.other.Put(ctx, key, fmt.Sprint(i)); err != nil {
			return err
		}
		var read *clientv3.GetResponse
		err := again(ctx, func() (err error) {
			read, err = kv.Get(ctx, key, clientv3.WithSerializable())
			if err != nil && !errors.Is(err, ordering.ErrNoGreaterRev) {
				return fmt.Errorf("read %d: %w", i, err)
			}
			return err
		})
		if err != nil {
			return err
		}
		if err := must(read.Header.Revision >= last, "revision %d after %d", read.Header.Revision, last); err != nil {
			return err
		}
		last = read.Header.Revision
		if i%10 == 0 {
			fresh, err := kv.Get(ctx, key)
			if err != nil {
				return err
			}
			last = fresh.Header.Revision
		}
	}
	return nil
}

func configured(ctx context.Context, w *world) error {
	file, err := os.CreateTemp("", "sealkv-interop-*.yaml")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	fmt.Fprintf(file, "endpoints: [%s]\ndial-timeout: 5000000000\ninsecure-transport: true\nusername: %q\npassword: %q\n", strings.Join(w.endpoints, ", "), w.user, w.password)
	if err := file.Close(); err != nil {
		return err
	}
	config, err := yaml.NewConfig(file.Name())
	if err != nil {
		return err
	}
	config.Username, config.Password = w.user, w.password
	client, err := clientv3.New(*config)
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := client.Put(ctx, w.prefix+"k", "x"); err != nil {
		return err
	}
	// The members name themselves; a client follows them.
	if err := client.Sync(ctx); err != nil {
		return err
	}
	if err := must(len(client.Endpoints()) == len(w.endpoints), "%v after %v", client.Endpoints(), w.endpoints); err != nil {
		return err
	}
	for _, endpoint := range client.Endpoints() {
		status, err := client.Status(ctx, endpoint)
		if err != nil {
			return err
		}
		if err := must(status.Version == "3.7.1" && status.Leader != 0, "status %v", status); err != nil {
			return err
		}
	}
	return nil
}

// What an API server of Kubernetes does with its store.
func kubernetesInterface(ctx context.Context, w *world) error {
	client, err := kubernetes.New(clientv3.Config{Endpoints: w.endpoints, Username: w.user, Password: w.password})
	if err != nil {
		return err
	}
	defer client.Close()
	store := client.Kubernetes
	pod := func(i int) string { return fmt.Sprintf("%spods/%03d", w.prefix, i) }
	const pods = 120
	var revision int64
	for i := range pods {
		made, err := store.OptimisticPut(ctx, pod(i), []byte("v1"), 0, kubernetes.PutOptions{})
		if err != nil {
			return err
		}
		if err := must(made.Succeeded, "%s was not made", pod(i)); err != nil {
			return err
		}
		revision = made.Revision
	}
	conflict, err := store.OptimisticPut(ctx, pod(0), []byte("v2"), 1, kubernetes.PutOptions{GetOnFailure: true})
	if err != nil {
		return err
	}
	if err := must(!conflict.Succeeded && string(conflict.KV.Value) == "v1", "conflict %v", conflict); err != nil {
		return err
	}
	listed, next := 0, ""
	for {
		page, err := store.List(ctx, w.prefix+"pods/", kubernetes.ListOptions{Limit: 50, Continue: next, Revision: revision})
		if err != nil {
			return err
		}
		listed += len(page.Kvs)
		if int64(len(page.Kvs)) == page.Count || len(page.Kvs) < 50 {
			break
		}
		next = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
	if err := must(listed == pods, "%d pods listed", listed); err != nil {
		return err
	}
	counted, err := store.Count(ctx, w.prefix+"pods/", kubernetes.CountOptions{})
	if err != nil {
		return err
	}
	if err := must(counted == pods, "%d pods counted", counted); err != nil {
		return err
	}
	read, err := store.Get(ctx, pod(1), kubernetes.GetOptions{Revision: revision})
	if err != nil {
		return err
	}
	gone, err := store.OptimisticDelete(ctx, pod(1), read.KV.ModRevision, kubernetes.DeleteOptions{})
	if err != nil {
		return err
	}
	return must(gone.Succeeded, "%s was not deleted", pod(1))
}
