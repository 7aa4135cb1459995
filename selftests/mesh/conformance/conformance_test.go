// SPDX-License-Identifier: MIT

// Package conformance runs the Gateway API's own conformance tests against l7mp-operator; see
// selftests/mesh/test_full_conformance.py.
package conformance

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

func TestConformance(t *testing.T) { conformance.RunConformance(t) }
