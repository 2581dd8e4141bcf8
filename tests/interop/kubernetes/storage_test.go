package storage

import (
	"context"
	"fmt"
	"testing"

	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
)

// plain are those of Kubernetes' tests that need nothing but a store.
var plain = map[string]func(context.Context, *testing.T, storage.Interface){
	"CreateWithTTL":                          storagetesting.RunTestCreateWithTTL,
	"CreateWithKeyExist":                     storagetesting.RunTestCreateWithKeyExist,
	"Get":                                    storagetesting.RunTestGet,
	"UnconditionalDelete":                    storagetesting.RunTestUnconditionalDelete,
	"ConditionalDelete":                      storagetesting.RunTestConditionalDelete,
	"DeleteWithSuggestion":                   storagetesting.RunTestDeleteWithSuggestion,
	"DeleteWithSuggestionAndConflict":        storagetesting.RunTestDeleteWithSuggestionAndConflict,
	"DeleteWithConflict":                     storagetesting.RunTestDeleteWithConflict,
	"DeleteWithSuggestionOfDeletedObject":    storagetesting.RunTestDeleteWithSuggestionOfDeletedObject,
	"ValidateDeletionWithSuggestion":         storagetesting.RunTestValidateDeletionWithSuggestion,
	"ValidateDeletionWithOnlySuggestion":     storagetesting.RunTestValidateDeletionWithOnlySuggestionValid,
	"PreconditionalDeleteWithSuggestion":     storagetesting.RunTestPreconditionalDeleteWithSuggestion,
	"PreconditionalDeleteWithSuggestionPass": storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass,
	"ListPaging":                             storagetesting.RunTestListPaging,
	"GetListRecursivePrefix":                 storagetesting.RunTestGetListRecursivePrefix,
	"KeySchema":                              storagetesting.RunTestKeySchema,
	"NamespaceScopedList":                    storagetesting.RunTestNamespaceScopedList,
	"GuaranteedUpdateWithTTL":                storagetesting.RunTestGuaranteedUpdateWithTTL,
	"GuaranteedUpdateWithConflict":           storagetesting.RunTestGuaranteedUpdateWithConflict,
	"GuaranteedUpdateWithSuggestionConflict": storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict,
	"Watch":                                  storagetesting.RunTestWatch,
	"ClusterScopedWatch":                     storagetesting.RunTestClusterScopedWatch,
	"NamespaceScopedWatch":                   storagetesting.RunTestNamespaceScopedWatch,
	"DeleteTriggerWatch":                     storagetesting.RunTestDeleteTriggerWatch,
	"WatchFromNonZero":                       storagetesting.RunTestWatchFromNonZero,
	"DelayedWatchDelivery":                   storagetesting.RunTestDelayedWatchDelivery,
	"WatchContextCancel":                     storagetesting.RunTestWatchContextCancel,
	"WatchDeleteEventObjectHaveLatestRV":     storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV,
	"WatchInitializationSignal":              storagetesting.RunTestWatchInitializationSignal,
	"SendInitialEventsBackwardCompatibility": storagetesting.RunSendInitialEventsBackwardCompatibility,
	"WatchSemanticInitialEventsExtended":     storagetesting.RunWatchSemanticInitialEventsExtended,
	"WatchListMatchSingle":                   storagetesting.RunWatchListMatchSingle,
}

// special are those that look behind the store as well.
var special = map[string]func(context.Context, *testing.T, *world){
	"Create": func(ctx context.Context, t *testing.T, w *world) {
		storagetesting.RunTestCreate(ctx, t, w, w.stored)
	},
	"List": func(ctx context.Context, t *testing.T, w *world) {
		storagetesting.RunTestList(ctx, t, w, w.compact, false, w.recorder)
	},
	"ConsistentList": func(ctx context.Context, t *testing.T, w *world) {
		storagetesting.RunTestConsistentList(ctx, t, w, w.increase, false, true, false)
	},
	"GetListNonRecursive": func(ctx context.Context, t *testing.T, w *world) {
		storagetesting.RunTestGetListNonRecursive(ctx, t, w.increase, w)
	},
	"ListContinuation": func(ctx context.Context, t *testing.T, w *world) {
		storagetesting.RunTestListContinuation(ctx, t, w, anyCalls)
	},
	"ListPaginationRareObject": func(ctx context.Context, t *testing.T, w *world) {
		storagetesting.RunTestListPaginationRareObject(ctx, t, w, anyCalls)
	},
	"ListContinuationWithFilter": func(ctx context.Context, t *testing.T, w *world) {
		storagetesting.RunTestListContinuationWithFilter(ctx, t, w, anyCalls)
	},
	"ListInconsistentContinuation": func(ctx context.Context, t *testing.T, w *world) {
		storagetesting.RunTestListInconsistentContinuation(ctx, t, w, w.compact)
	},
	"ListResourceVersionMatch": func(ctx context.Context, t *testing.T, w *world) {
		storagetesting.RunTestListResourceVersionMatch(ctx, t, w)
	},
	"GuaranteedUpdate": func(ctx context.Context, t *testing.T, w *world) {
		storagetesting.RunTestGuaranteedUpdate(ctx, t, w, w.stored)
	},
	"GuaranteedUpdateChecksStoredData": func(ctx context.Context, t *testing.T, w *world) {
		storagetesting.RunTestGuaranteedUpdateChecksStoredData(ctx, t, w)
	},
	"TransformationFailure": func(ctx context.Context, t *testing.T, w *world) {
		storagetesting.RunTestTransformationFailure(ctx, t, w)
	},
	"Stats": func(ctx context.Context, t *testing.T, w *world) {
		storagetesting.RunTestStats(ctx, t, w, w.codec, w.transformer, false)
	},
	"CompactRevision": func(ctx context.Context, t *testing.T, w *world) {
		storagetesting.RunTestCompactRevision(ctx, t, w, w.increase, w.compact)
	},
	"WatchFromZero": func(ctx context.Context, t *testing.T, w *world) {
		storagetesting.RunTestWatchFromZero(ctx, t, w, w.compact)
	},
	"WatchError": func(ctx context.Context, t *testing.T, w *world) {
		storagetesting.RunTestWatchError(ctx, t, w)
	},
	"WatchErrorIsBlockingFurtherEvents": func(ctx context.Context, t *testing.T, w *world) {
		storagetesting.RunWatchErrorIsBlockingFurtherEvents(ctx, t, w)
	},
	"ProgressNotify": func(ctx context.Context, t *testing.T, w *world) {
		storagetesting.RunOptionalTestProgressNotify(ctx, t, w, w.increase)
	},
	"WatchDispatchBookmarkEvents": func(ctx context.Context, t *testing.T, w *world) {
		storagetesting.RunTestWatchDispatchBookmarkEvents(ctx, t, w, false)
	},
}

// How often the store asks is its own affair.
func anyCalls(*testing.T, uint64, uint64) {}

// Every list in pages, and every list by one stream of etcd 3.7.
func TestStorage(t *testing.T) {
	for _, stream := range []bool{false, true} {
		t.Run(fmt.Sprintf("RangeStream=%v", stream), func(t *testing.T) {
			featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.EtcdRangeStream, stream)
			for name, run := range plain {
				t.Run(name, func(t *testing.T) {
					ctx, w := newWorld(t)
					run(ctx, t, w)
				})
			}
			for name, run := range special {
				t.Run(name, func(t *testing.T) {
					ctx, w := newWorld(t)
					run(ctx, t, w)
				})
			}
			if stream && !etcdfeature.DefaultFeatureSupportChecker.Supports(storage.RangeStream) {
				t.Error("the server's streams of ranges were not taken for such")
			}
		})
	}
	if !etcdfeature.DefaultFeatureSupportChecker.Supports(storage.RequestWatchProgress) {
		t.Error("the server's version was not taken for one that tells progress on request")
	}
}
