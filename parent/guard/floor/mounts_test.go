package floor

import (
	"slices"
	"testing"
)

const someMounts = `22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
41 31 0:38 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw
50 27 254:0 /var/lib /mnt/a\040b rw,relatime - ext4 /dev/vda rw
51 27 254:0 /var/lib/raypher/keys /srv/keys rw,relatime shared:1 master:2 - ext4 /dev/vda rw
52 27 254:0 / /mnt/all rw,relatime - ext4 /dev/vda rw
53 27 0:40 / /run rw,nosuid - tmpfs tmpfs rw
54 27 0:38 / /srv/w/cg rw,relatime - cgroup2 none rw
55 not a mount
`

func TestMounts(t *testing.T) {
	mounts := parseMounts(someMounts)
	if len(mounts) != 8 {
		t.Errorf("%d mounts: %+v", len(mounts), mounts)
	}
	if got, want := mounts.Kernel("proc"), []string{"/sys/fs/cgroup", "/srv/w/cg"}; !slices.Equal(got, want) {
		t.Errorf("file systems of the kernel at %q, want %q", got, want)
	}
	for _, tt := range []struct {
		path string
		want []string
	}{
		{"/var/lib/raypher", []string{"/mnt/a b/raypher", "/srv/keys", "/mnt/all/var/lib/raypher"}},
		{"/run/raypher", nil},
		{"/mnt/a b/raypher/keys/x", []string{"/var/lib/raypher/keys/x", "/srv/keys/x", "/mnt/all/var/lib/raypher/keys/x"}},
	} {
		got := otherNames(mounts, tt.path)
		slices.Sort(got)
		slices.Sort(tt.want)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s is also %q, want %q", tt.path, got, tt.want)
		}
	}
	if got := mounts.Everywhere([]string{"", "relative"}); len(got) != 0 {
		t.Errorf("what is no absolute path closes %q", got)
	}
}
