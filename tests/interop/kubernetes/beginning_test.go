package storage

import (
	"flag"
	"fmt"
	"testing"

	"k8s.io/apiserver/pkg/features"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
)

var timed = flag.Bool("timed", false, "play those of Kubernetes' tests too that give an event 150 ms to arrive, "+
	"which a machine with other work to do may fail to hold")

// Some of these watch from revision 1 on, so they come before anything is compacted: the file's name puts them first,
// and the cluster has to be a fresh one.
func TestTimed(t *testing.T) {
	if !*timed {
		t.Skip("not asked for by -timed")
	}
	for _, stream := range []bool{false, true} {
		for _, concurrent := range []bool{false, true} {
			t.Run(fmt.Sprintf("WatchSemantics/RangeStream=%v/ConcurrentWatchObjectDecode=%v", stream, concurrent), func(t *testing.T) {
				featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.EtcdRangeStream, stream)
				featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.ConcurrentWatchObjectDecode, concurrent)
				ctx, w := newWorld(t)
				storagetesting.RunWatchSemantics(ctx, t, w)
			})
		}
	}
	t.Run("WatcherTimeout", func(t *testing.T) {
		ctx, w := newWorld(t)
		storagetesting.RunTestWatcherTimeout(ctx, t, w)
	})
}
