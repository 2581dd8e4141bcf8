// Kubernetes' own storage layer at work: k8s.io/apiserver's etcd3 store, put through the tests that Kubernetes holds
// its storage to, and through what its compactor, its leases and its clients do besides.
//
// Usage: kubernetes-storage [-test.run PATTERN] [-timed] ENDPOINT[,ENDPOINT...]; INTEROP_USER and INTEROP_PASSWORD log in.
//
// With three endpoints the leader is killed as well: `? kill-leader` on stdout asks for it, a line on stdin says that
// it is done; `? restart` brings the member back. The members tell progress every second
// (`--watch-progress-notify-interval=1s`). Exits 0 when all held.
package storage

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.uber.org/zap"
	"google.golang.org/grpc/grpclog"
	"k8s.io/apimachinery/pkg/api/apitesting"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/utils/clock"
)

var (
	scheme    = runtime.NewScheme()
	codecs    = serializer.NewCodecFactory(scheme)
	endpoints []string
	typed     = bufio.NewScanner(os.Stdin)
	stores    atomic.Int64
)

func TestMain(m *testing.M) {
	flag.Parse()
	if flag.NArg() < 1 {
		fmt.Println("usage: kubernetes-storage [-test.run PATTERN] [-timed] ENDPOINT[,ENDPOINT...]")
		os.Exit(2)
	}
	endpoints = strings.Split(flag.Arg(0), ",")
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	utilruntime.Must(example.AddToScheme(scheme))
	utilruntime.Must(examplev1.AddToScheme(scheme))
	started := time.Now()
	code := m.Run()
	if code == 0 {
		fmt.Printf("kubernetes: the store's tests held (%.1f s)\n", time.Since(started).Seconds())
	}
	os.Exit(code)
}

// ask has the harness do something and waits until it is done.
func ask(t *testing.T, what string) {
	t.Helper()
	fmt.Println("? " + what)
	if !typed.Scan() {
		t.Fatalf("nobody answers %s", what)
	}
}

// store is what its constructor returns; its type has no name outside.
type store interface {
	storage.Interface
	Close()
}

// world is a store of its own below a prefix of its own, as an API server has one for each kind of object.
type world struct {
	store
	client      *kubernetes.Client
	recorder    *storagetesting.KubernetesRecorder
	codec       runtime.Codec
	prefix      string
	transformer *exchangeable
}

func newWorld(t *testing.T) (context.Context, *world) {
	t.Helper()
	client, err := kubernetes.New(clientv3.Config{
		Endpoints:   endpoints,
		Username:    os.Getenv("INTEROP_USER"),
		Password:    os.Getenv("INTEROP_PASSWORD"),
		DialTimeout: 10 * time.Second,
		Logger:      zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	w := &world{
		client:      client,
		recorder:    storagetesting.NewKubernetesRecorder(client.Kubernetes),
		codec:       apitesting.TestCodec(codecs, examplev1.SchemeGroupVersion),
		prefix:      fmt.Sprintf("/registry/%d", stores.Add(1)),
		transformer: newExchangeable(),
	}
	client.Kubernetes = w.recorder
	compactor := etcd3.NewCompactor(client.Client, 0, clock.RealClock{}, nil)
	t.Cleanup(compactor.Stop)
	leases := etcd3.NewDefaultLeaseManagerConfig()
	// A minute, as by default, is longer than a test may wait.
	leases.ReuseDurationSeconds = 1
	versioner := storage.APIObjectVersioner{}
	made, err := etcd3.New(client, compactor, w.codec,
		func() runtime.Object { return &example.Pod{} }, func() runtime.Object { return &example.PodList{} },
		w.prefix, "/pods/", schema.GroupResource{Resource: "pods"}, w.transformer, leases,
		etcd3.NewDefaultDecoder(w.codec, versioner), versioner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(made.Close)
	w.store = made
	t.Cleanup(func() { outlive(t, client.Client) })
	return context.Background(), w
}

// outlive waits for the end of every lease: some of Kubernetes' tests leave an object that has a second to live, and
// others count revisions.
func outlive(t *testing.T, client *clientv3.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		left, err := client.Leases(ctx)
		if err != nil {
			t.Errorf("leases: %v", err)
			return
		}
		if len(left.Leases) == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// exchangeable writes a mark before every object, and can be made to do something else in the middle of a test.
type exchangeable struct {
	marks *storagetesting.PrefixTransformer
	now   atomic.Value
}

const mark = "test!"

type inUse struct{ value.Transformer }

func newExchangeable() *exchangeable {
	e := &exchangeable{marks: storagetesting.NewPrefixTransformer([]byte(mark), false)}
	e.now.Store(inUse{e.marks})
	return e
}

func (e *exchangeable) TransformFromStorage(ctx context.Context, data []byte, about value.Context) ([]byte, bool, error) {
	return e.now.Load().(inUse).TransformFromStorage(ctx, data, about)
}

func (e *exchangeable) TransformToStorage(ctx context.Context, data []byte, about value.Context) ([]byte, error) {
	return e.now.Load().(inUse).TransformToStorage(ctx, data, about)
}

// UpdatePrefixTransformer returns what undoes it.
func (w *world) UpdatePrefixTransformer(modify storagetesting.PrefixTransformerModifier) func() {
	before := w.transformer.now.Load()
	marks := *w.transformer.marks
	w.transformer.now.Store(inUse{modify(&marks)})
	return func() { w.transformer.now.Store(before) }
}

// stored holds what stands under a key against what may: an object without what only answers carry.
func (w *world) stored(ctx context.Context, t *testing.T, key string) {
	t.Helper()
	read, err := w.client.KV.Get(ctx, w.prefix+key)
	if err != nil {
		t.Fatal(err)
	}
	if len(read.Kvs) != 1 {
		t.Fatalf("%d records under %s", len(read.Kvs), key)
	}
	written, marked := strings.CutPrefix(string(read.Kvs[0].Value), mark)
	if !marked {
		t.Fatalf("%s was not transformed", key)
	}
	object, err := runtime.Decode(w.codec, []byte(written))
	if err != nil {
		t.Fatal(err)
	}
	if pod := object.(*example.Pod); pod.ResourceVersion != "" || pod.SelfLink != "" {
		t.Errorf("%s holds a version or a link", key)
	}
}

// compact compacts as API servers do, who agree by a key on which of them does.
func (w *world) compact(ctx context.Context, t *testing.T, resourceVersion string) {
	t.Helper()
	revision, err := storage.APIObjectVersioner{}.ParseResourceVersion(resourceVersion)
	if err != nil {
		t.Fatal(err)
	}
	// Who does not know how often it was done is told, and does it then.
	version, _, compacted, err := etcd3.Compact(ctx, w.client.Client, 0, int64(revision))
	if err == nil && compacted != int64(revision) {
		_, _, _, err = etcd3.Compact(ctx, w.client.Client, version, int64(revision))
	}
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); w.CompactRevision() != int64(revision); {
		if time.Now().After(deadline) {
			t.Fatalf("the store sees a compaction at %d, not %d", w.CompactRevision(), revision)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (w *world) increase(ctx context.Context, t *testing.T) int64 {
	t.Helper()
	put, err := w.client.KV.Put(ctx, "increase", "x")
	if err != nil {
		t.Fatal(err)
	}
	return put.Header.Revision
}
