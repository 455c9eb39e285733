//! The pod's network namespace: what CNI plugins have made there becomes the guest's.
