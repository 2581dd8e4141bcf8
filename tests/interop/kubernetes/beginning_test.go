package storage

import (
	"fmt"
	"testing"

	"k8s.io/apiserver/pkg/features"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
)

// These watch from revision 1 on, so they come before anything is compacted: the file's name puts them first, and the
// cluster has to be a fresh one.
func TestFromTheBeginning(t *testing.T) {
	for _, stream := range []bool{false, true} {
		for _, concurrent := range []bool{false, true} {
			t.Run(fmt.Sprintf("RangeStream=%v,ConcurrentWatchObjectDecode=%v", stream, concurrent), func(t *testing.T) {
				featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.EtcdRangeStream, stream)
				featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.ConcurrentWatchObjectDecode, concurrent)
				ctx, w := newWorld(t)
				storagetesting.RunWatchSemantics(ctx, t, w)
			})
		}
	}
}
