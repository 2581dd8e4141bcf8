package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func keys(ctx context.Context, w *world) error {
	a, b := w.prefix+"a", w.prefix+"b"
	first, err := w.client.Put(ctx, a, "1")
	if err != nil {
		return err
	}
	replaced, err := w.other.Put(ctx, a, "2", clientv3.WithPrevKV())
	if err != nil {
		return err
	}
	if err := must(string(replaced.PrevKv.Value) == "1" && replaced.PrevKv.Version == 1, "replaced %v", replaced.PrevKv); err != nil {
		return err
	}
	if _, err := w.client.Put(ctx, b, "3"); err != nil {
		return err
	}
	past, err := w.other.Get(ctx, a, clientv3.WithRev(first.Header.Revision))
	if err != nil {
		return err
	}
	if err := must(len(past.Kvs) == 1 && string(past.Kvs[0].Value) == "1", "the past is %v", past.Kvs); err != nil {
		return err
	}
	sorted, err := w.other.Get(ctx, w.prefix, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByValue, clientv3.SortDescend))
	if err != nil {
		return err
	}
	if err := must(len(sorted.Kvs) == 2 && string(sorted.Kvs[0].Value) == "3", "sorted %v", sorted.Kvs); err != nil {
		return err
	}
	local, err := w.other.Get(ctx, b, clientv3.WithSerializable())
	if err != nil {
		return err
	}
	if err := must(local.Count <= 1, "one key counted as %d", local.Count); err != nil {
		return err
	}
	if _, err = w.client.Get(ctx, ""); !errors.Is(err, rpctypes.ErrEmptyKey) {
		return fmt.Errorf("no key: %v", err)
	}
	if _, err = w.client.Get(ctx, a, clientv3.WithRev(1<<40)); !errors.Is(err, rpctypes.ErrFutureRev) {
		return fmt.Errorf("a revision to come: %v", err)
	}
	if _, err = w.client.Put(ctx, w.prefix+"none", "", clientv3.WithIgnoreValue()); !errors.Is(err, rpctypes.ErrKeyNotFound) {
		return fmt.Errorf("the value of no key kept: %v", err)
	}
	gone, err := w.other.Delete(ctx, w.prefix, clientv3.WithPrefix(), clientv3.WithPrevKV())
	if err != nil {
		return err
	}
	return must(gone.Deleted == 2 && len(gone.PrevKvs) == 2, "deleted %v", gone)
}

func largeValues(ctx context.Context, w *world) error {
	for _, size := range []int{1 << 10, 64 << 10, 1 << 20, 1_572_864 - 512} {
		value := strings.Repeat(strconv.Itoa(size%10), size)
		if _, err := w.client.Put(ctx, w.prefix+"large", value); err != nil {
			return fmt.Errorf("%d bytes: %w", size, err)
		}
		read, err := w.other.Get(ctx, w.prefix+"large")
		if err != nil {
			return err
		}
		if err := must(string(read.Kvs[0].Value) == value, "%d bytes came back as %d", size, len(read.Kvs[0].Value)); err != nil {
			return err
		}
	}
	if _, err := w.client.Put(ctx, w.prefix+"large", strings.Repeat("x", 1_572_864+1)); !errors.Is(err, rpctypes.ErrRequestTooLarge) {
		return fmt.Errorf("more than fits: %v", err)
	}
	// Many at once are one answer of 6 MiB.
	for i := range 6 {
		if _, err := w.client.Put(ctx, fmt.Sprintf("%smany/%02d", w.prefix, i), strings.Repeat("y", 1<<20)); err != nil {
			return err
		}
	}
	all, err := w.other.Get(ctx, w.prefix+"many/", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	if err := must(all.Count == 6 && len(all.Kvs[5].Value) == 1<<20, "%d large values", all.Count); err != nil {
		return err
	}
	_, err = w.client.Delete(ctx, w.prefix, clientv3.WithPrefix())
	return err
}

func nestedTransactions(ctx context.Context, w *world) error {
	a, b := w.prefix+"a", w.prefix+"b"
	if _, err := w.client.Put(ctx, a, "1"); err != nil {
		return err
	}
	inner := clientv3.OpTxn(
		[]clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(b), "=", 0)},
		[]clientv3.Op{clientv3.OpPut(b, "made"), clientv3.OpGet(b)},
		[]clientv3.Op{clientv3.OpDelete(b)},
	)
	outer, err := w.other.Txn(ctx).
		If(clientv3.Compare(clientv3.Value(a), "=", "1"), clientv3.Compare(clientv3.Version(a).WithPrefix(), ">", 0)).
		Then(inner, clientv3.OpGet(a)).
		Else(clientv3.OpPut(a, "lost")).
		Commit()
	if err != nil {
		return err
	}
	nested := outer.Responses[0].GetResponseTxn()
	read := nested.Responses[1].GetResponseRange().Kvs
	if err := must(outer.Succeeded && nested.Succeeded && string(read[0].Value) == "made", "nested %v", outer); err != nil {
		return err
	}
	if err := must(read[0].ModRevision == outer.Header.Revision, "one transaction, revisions %d and %d", read[0].ModRevision, outer.Header.Revision); err != nil {
		return err
	}
	_, err = w.client.Txn(ctx).Then(clientv3.OpPut(a, "1"), clientv3.OpPut(a, "2")).Commit()
	if !errors.Is(err, rpctypes.ErrDuplicateKey) {
		return fmt.Errorf("one key twice: %v", err)
	}
	many := make([]clientv3.Op, 129)
	for i := range many {
		many[i] = clientv3.OpGet(a)
	}
	if _, err = w.client.Txn(ctx).Then(many...).Commit(); !errors.Is(err, rpctypes.ErrTooManyOps) {
		return fmt.Errorf("129 operations: %v", err)
	}
	return nil
}

// Eight writers, each swaps what it read for one more: no step is lost and none is done twice.
func compareAndSwap(ctx context.Context, w *world) error {
	const writers, steps = 8, 25
	key := w.prefix + "counter"
	if _, err := w.client.Put(ctx, key, "0"); err != nil {
		return err
	}
	step := func(client *clientv3.Client) error {
		for {
			read, err := client.Get(ctx, key)
			if err != nil {
				return err
			}
			kv := read.Kvs[0]
			number, err := strconv.Atoi(string(kv.Value))
			if err != nil {
				return err
			}
			done, err := client.Txn(ctx).
				If(clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)).
				Then(clientv3.OpPut(key, strconv.Itoa(number+1))).
				Commit()
			if err != nil || done.Succeeded {
				return err
			}
		}
	}
	failures := make([]error, writers)
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			client := []*clientv3.Client{w.client, w.other}[i%2]
			for range steps {
				if failures[i] = step(client); failures[i] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	read, err := w.client.Get(ctx, key)
	if err != nil {
		return err
	}
	kv := read.Kvs[0]
	return must(string(kv.Value) == strconv.Itoa(writers*steps) && kv.Version == writers*steps+1, "counted to %s in %d versions", kv.Value, kv.Version)
}

const paged = 5_000

func fill(ctx context.Context, w *world) error {
	for from := 0; from < paged; from += 100 {
		var puts []clientv3.Op
		for i := from; i < from+100; i++ {
			puts = append(puts, clientv3.OpPut(fmt.Sprintf("%s%05d", w.prefix, i), "page me"))
		}
		if _, err := w.client.Txn(ctx).Then(puts...).Commit(); err != nil {
			return err
		}
	}
	return nil
}

// Pages at the revision of the first page, while others write and delete between them.
func paging(ctx context.Context, w *world) error {
	if err := fill(ctx, w); err != nil {
		return err
	}
	end := clientv3.GetPrefixRangeEnd(w.prefix)
	next, revision, seen := w.prefix, int64(0), 0
	for {
		page, err := w.other.Get(ctx, next, clientv3.WithRange(end), clientv3.WithLimit(500), clientv3.WithRev(revision))
		if err != nil {
			return err
		}
		for _, kv := range page.Kvs {
			if err := must(string(kv.Key) == fmt.Sprintf("%s%05d", w.prefix, seen), "page has %s, not number %d", kv.Key, seen); err != nil {
				return err
			}
			seen++
		}
		if revision == 0 {
			revision = page.Header.Revision
			if err := must(page.Count == paged, "%d keys counted", page.Count); err != nil {
				return err
			}
		}
		if !page.More {
			break
		}
		next = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
		if _, err := w.client.Delete(ctx, fmt.Sprintf("%s%05d", w.prefix, seen+3)); err != nil {
			return err
		}
		if _, err := w.client.Put(ctx, fmt.Sprintf("%s%05d-new", w.prefix, seen), "later"); err != nil {
			return err
		}
	}
	if err := must(seen == paged, "%d keys seen", seen); err != nil {
		return err
	}
	gone, err := w.client.Delete(ctx, w.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	return must(gone.Deleted == paged, "%d keys deleted", gone.Deleted)
}

func rangeStream(ctx context.Context, w *world) error {
	if err := fill(ctx, w); err != nil {
		return err
	}
	stream, err := w.other.GetStream(ctx, w.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	whole, err := clientv3.GetStreamToGetResponse(stream)
	if err != nil {
		return err
	}
	once, err := w.other.Get(ctx, w.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	if err := must(whole.Count == paged && len(whole.Kvs) == paged && !whole.More, "streamed %d of %d", len(whole.Kvs), whole.Count); err != nil {
		return err
	}
	for i, kv := range whole.Kvs {
		if err := must(kv.String() == once.Kvs[i].String(), "streamed %v, ranged %v", kv, once.Kvs[i]); err != nil {
			return err
		}
	}
	_, err = w.client.Delete(ctx, w.prefix, clientv3.WithPrefix())
	return err
}
