"""What a net is trained towards: the losses, the VGG features behind some of them, a teacher."""
